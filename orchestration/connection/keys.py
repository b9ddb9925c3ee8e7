"""Every Redis key umbel uses, in one table: name, type, lifetime.

All keys of one run and the indexes it appears in carry the hash tag of one *shard*, so a script may touch a run and
the indexes together, and a Redis Cluster keeps them on one node. Lua files name the keys they touch by the logical
names below (`--!keys run work …`); nothing else builds a key.
"""

from __future__ import annotations

import os
import re
import secrets
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import count

from ..model.errors import WorkflowRuntimeError


@dataclass(frozen=True, slots=True)
class RunKey:
    """One key that every run may have.

    Attributes:
        suffix: The part of the key's name after the run's id.
        type: Redis type.
        content: What it holds.
        spent: Whether it is deleted when the run completes: a completed run needs only its result and its logs. A run
            that ended otherwise may be retried or restored and keeps it for `retention_seconds`, like all other keys.
    """

    suffix: str
    type: str
    content: str
    spent: bool = False


#: By logical name. Lifetime: until the run ends, then see `spent`. The only list of a run's keys: Lua gets it from
#: here too (`lua/lib/lifetimes.lua`).
RUN_KEYS: dict[str, RunKey] = {
    "run": RunKey("", "HASH", "status, workflow, plan digest, instants, counters, terminal event"),
    "work": RunKey(
        ":work", "HASH", "work id -> record of each unfinished work item that has left its step's queue", spent=True
    ),
    "events": RunKey(
        ":events", "HASH", "event id -> envelope; `#`id -> how many work items still refer to it, when > 1", spent=True
    ),
    "slots": RunKey(
        ":slots", "HASH", "step -> slots in use below this number; step/n -> work id in slot n", spent=True
    ),
    "free": RunKey(":free", "ZSET", "step/n of free slots below that number", spent=True),
    "queue": RunKey(
        ":queue", "HASH", "per step a FIFO of work items without a slot; staged fan-out segments", spent=True
    ),
    "scopes": RunKey(
        ":scopes", "HASH", "per open fan-out: open count, parent, joins, which joins have fired", spent=True
    ),
    "joins": RunKey(":joins", "HASH", "buffers of multi-parameter joins", spent=True),
    "stream": RunKey(":stream", "STREAM", "published events; id `seq-1`; the live channel is named after it"),
    "trace": RunKey(":trace", "STREAM", "step state changes, numbered in the same sequence as the stream"),
    "journal": RunKey(":journal", "STREAM", "one entry per applied change"),
    "packed": RunKey(
        ":packed", "HASH", "`first-last` -> the oldest entries of the journal, compressed; see `store/packed.py`"
    ),
    "logs": RunKey(
        ":logs", "ZSET", "what its steps have logged: packed lines -> when the first was; bounded; '' -> -how many went"
    ),
    "inbox": RunKey(":inbox", "LIST", "events that no step accepted yet, bounded", spent=True),
    "waiters": RunKey(":waiters", "HASH", "work id|waiter id -> what it waits for", spent=True),
    "waiting": RunKey(
        ":waiting",
        "ZSET",
        "index of the waiters, from `waiters_indexed_from` of them on: `digest|field`, `#kind`",
        spent=True,
    ),
    "extra": RunKey(":extra", "SET", "names of the run's dynamic keys (members, sent, collect), for their expiry"),
    "received": RunKey(":received", "ZSET", "ids of external sends seen lately", spent=True),
    "collect": RunKey(":collect", "HASH", "bookkeeping of collect_events buffers, values of ctx.once", spent=True),
    "children": RunKey(
        ":children", "HASH", "child run -> the work item that waits for it, status, what it starts with"
    ),
    "recorded": RunKey(
        ":recorded", "HASH", "of a fork: work id -> the outcome, `?`work id -> the answers that it may take", spent=True
    ),
}

#: Keys named after something within the run; listed in `extra` while they exist.
DYNAMIC_KEYS: dict[str, tuple[str, str, str]] = {
    "members": (":members:", "LIST", "events gathered for one collect step of one fan-out"),
    "sent": (":sent:", "SET", "identities of events a running work item has sent early"),
    "answer": (":answer:", "STRING", "answer of a work item's last commit, if more than what goes on; lives 60 s"),
    "buffer": (":buffer:", "LIST", "one event type of one collect_events buffer"),
    "taken": (":taken:", "LIST", "a completed collect_events set, until its work item commits"),
}

#: Keys of a shard; they live as long as the deployment.
SHARD_KEYS: dict[str, tuple[str, str]] = {
    "unclaimed": ("ZSET", "run|work|queue/priority -> instant of the next look at an unclaimed dispatch"),
    "unclaimed_counts": ("HASH", "queue/priority -> number of members in unclaimed"),
    "watermark": ("HASH", "queue/priority -> dispatch instant of the newest claim: what is older was passed over"),
    "timers": ("ZSET", "kind|run|… -> due instant"),
    "leases": ("ZSET", "owner -> instant its lease runs out"),
    "fenced": ("ZSET", "owner -> instant it was declared lost"),
    "parked": (
        "ZSET",
        "workflow|step[@lacks]|run|work without a worker that has the code: the step, or what it lacks besides",
    ),
    "awaiting_admission": ("ZSET", "run at its workflow's concurrency limit -> instant of the next look at it"),
    "releasing": ("ZSET", "admission|workflow of an ended run, still to be released -> ended_at"),
    "limits": (
        "HASH",
        "workflow -> how many of its runs may execute at a time, and when that was stated; in the shard of its name",
    ),
    "outbox": ("ZSET", "what is to be done about child runs or their parents -> next look; see `lua/lib/children.lua`"),
    "lines": ("ZSET", "session with runs that wait for their turn -> instant of the next look at it"),
    "sessions": ("ZSET", "session -> when a run of it began or ended last"),
    "retire": ("ZSET", "ended runs whose dynamic keys still have to be expired"),
    "runs:running": ("ZSET", "run id -> created_at"),
    "runs:completed": ("ZSET", "run id -> ended_at"),
    "runs:failed": ("ZSET", "run id -> ended_at"),
    "runs:cancelled": ("ZSET", "run id -> ended_at"),
    "runs:timed_out": ("ZSET", "run id -> ended_at"),
    "counters": (
        "HASH",
        "name -> how often, for monitors: losses, duplicates, re-dispatches, …; what|n and what|sum: histograms",
    ),
    "swept_at": ("STRING", "instant of the last turn of a sweep here; in the future if the clock was set back since"),
    "packed_until": ("HASH", "status:shard -> when the last run ended whose journal was packed; in shard 0"),
    "packing": ("STRING", "a process packs journals; expires by itself; in shard 0"),
    "workers": ("HASH", "worker name -> JSON of what it is, runs and when it was last seen; in shard 0"),
    "stopped": ("channel", "run|work|claim, published when a running step is cancelled"),
    "ended": (
        "channel",
        "run id NUL {status, terminal event up to 1 kB}, published at the end and at a rewind; see `channel`",
    ),
}

#: Keys named after something outside a run (an owner, a plan's digest, a state), and single keys of a deployment.
OTHER_KEYS: dict[str, tuple[str, str]] = {
    "owner:<owner>": ("SET", "run|work|token of every work item the owner holds"),
    "counted:<owner>": ("STRING", "the last batch of histograms that the owner has sent; in shard 0; lives an hour"),
    "plan:<digest>": ("STRING", "the plan's canonical JSON; never expires, a few kB per version of a workflow"),
    "state:<state_id>": ("HASH", "ctx.store: top-level key -> JSON; lives as long as the runs that use it"),
    "state:<state_id>:versions": (
        "HASH",
        "v -> how often it was written; write -> what it has changed; lives as long as the state",
    ),
    "state:<state_id>:lock": ("STRING", "lock token of the edit in progress; expires by itself"),
    "state:<state_id>:lock:next": ("STRING", "process that edits next because it waited long; expires by itself"),
    "state:<state_id>:answer:<process>": ("STRING", "id of a process's last write; lives 60 s"),
    "forks:<run_id>": (
        "ZSET",
        "fork of the run -> when it was made, the newest; in the run's shard; expires a retention after the last one",
    ),
    "admitted:<workflow>": ("ZSET", "admission of each admitted run -> next look; in the shard of the name"),
    "waiting:<workflow>": ("ZSET", "admission of each run that waits -> its start in us; likewise"),
    "deployment": ("STRING", "key prefix, number of shards and schema version, as JSON; in shard 0, never expires"),
    "cursor_key": ("STRING", "key with which servers seal the cursors of lists; in shard 0, as old as the deployment"),
    "paused_queues": ("HASH", "queue that no worker takes messages from -> since when; in shard 0"),
    "paused_workflows": (
        "HASH",
        "workflow, or the last part of its name, of which no step begins -> since when; likewise",
    ),
    "resumed_workflows": ("HASH", "one that was paused until lately -> until when; likewise"),
    "held:<workflow>": (
        "ZSET",
        "run|work|queue/priority that is held while it is paused -> since when; in the run's shard",
    ),
    "never": ("none", "exists nowhere; scripts of a cluster that find names of keys by themselves are passed it"),
    "probe": ("channel", "nobody listens; a starting worker sees whether it may publish"),
    "handler:<state_id>": ("STRING", "the run that a session is at; lives as long as the session"),
    "line:<state_id>": ("LIST", "runs of a session that wait for their turn, oldest first"),
    "session:<state_id>": ("HASH", "closed (when), source (of its state); lives as long as the session"),
    "session_runs:<state_id>": (
        "ZSET",
        "what follows the dot in the id of a run -> when it began, in us; the newest; likewise",
    ),
}

#: In a Redis broker, a HASH: queue -> how many malformed messages were ever quarantined. The messages are in a
#: LIST per queue, `umbel:quarantine:<queue>`. Both live until an operator deletes them.
QUARANTINE_KEY = "umbel:quarantine"

#: Indexes of runs by status; each run is in one of them as long as it is stored.
RUN_INDEXES = tuple(name for name in SHARD_KEYS if name.startswith("runs:"))

#: The most shards that a deployment may have.
MAX_SHARDS = 1024

#: Keys that are stored under the name of an older release: during an upgrade both releases use the same keys.
STORED_AS = {
    "unclaimed": "ring",
    "unclaimed_counts": "unclaimed",
    "fenced": "gone",
    "awaiting_admission": "unbegun",
    "releasing": "leaving",
    "admitted": "places",
}

_CHOSEN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
#: Also `<state id>.<random>`, the run of a session (`sessions/names.py`); longer, because a session's name may be long.
_RUN_ID = re.compile(r"[A-Za-z0-9_~][A-Za-z0-9_~-]{0,383}\.[A-Za-z0-9_-]{1,64}")


def new_id() -> str:
    """An unguessable id of 128 random bits. It never begins with `-`: a shell command would take it for an option."""
    while (made := secrets.token_urlsafe(16)).startswith("-"):
        pass
    return made


def new_nonce() -> str:
    """A unique id that need not be a secret: ten times cheaper than `new_id`."""
    return f"{_process_nonce()}{next(_numbers):x}"


@cache
def _process_nonce() -> str:
    return secrets.token_urlsafe(9)


_numbers = count()
os.register_at_fork(after_in_child=_process_nonce.cache_clear)


def state_id_of(run_id: str) -> str:
    """The name of a run's state: its own id, or the part before the dot in the id of a session's run."""
    return run_id.partition(".")[0]


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it may be the id of a run, chosen or generated.

    Raises:
        WorkflowRuntimeError: No run can have this id.
    """
    return run_id if isinstance(run_id, str) and _RUN_ID.fullmatch(run_id) else check_chosen_id(run_id)


def check_chosen_id(run_id: str) -> str:
    """Return `run_id` if a caller may choose it for a new run.

    Raises:
        WorkflowRuntimeError: It contains something other than letters, digits, `_` and `-`, begins with `-` (a shell
            command would take it for an option), or is too long.
    """
    if not isinstance(run_id, str) or not _CHOSEN_ID.fullmatch(run_id):
        raise WorkflowRuntimeError(
            f"{run_id!r} cannot be a run id: expected 1 to 128 letters, digits, '_' or '-', not beginning "
            "with '-'. Choose such an id, or leave it out to get a generated one."
        )
    return run_id


def _stored(name: str) -> str:
    kind, colon, rest = name.partition(":") if name.startswith("admitted:") else (name, "", "")
    return STORED_AS.get(kind, kind) + colon + rest


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds key names for one deployment.

    Attributes:
        prefix: The deployment's key prefix.
        shards: Number of shards, fixed for the life of the deployment.
        database: Number of the Redis database; deployments in two databases of one server may have the same prefix.
    """

    prefix: str = "umbel"
    shards: int = 16
    database: int = 0

    def channel(self, key: str) -> str:
        """The pub/sub channel that is named after a key.

        A server's channels are common to all its databases, so the name says which one, except for database 0.
        """
        return f"{key}@{self.database}" if self.database else key

    def shard_of(self, state_id: str) -> int:
        """The shard of everything that shares `state_id`."""
        return zlib.crc32(state_id.encode()) % self.shards

    def tag(self, shard: int) -> str:
        """Common prefix of all keys of a shard, with its hash tag."""
        return f"{self.prefix}:{{{shard:02d}}}:"

    def in_shard(self, shard: int, name: str) -> str:
        """A key of the shard: one of SHARD_KEYS or OTHER_KEYS."""
        return self.tag(shard) + _stored(name)

    def glanced_at(self, shard: int, run_id: str) -> tuple[str, ...]:
        """Record, journal and packed entries of a run that is known to be in this shard."""
        stem = f"{self.tag(shard)}run:{run_id}"
        return tuple(stem + RUN_KEYS[name].suffix for name in ("run", "journal", "packed"))

    def of_run(self, run_id: str) -> RunKeys:
        """The keys of a run. All runs that share a state are in one shard, which follows from the id."""
        shard = self.shard_of(state_id_of(run_id))
        return RunKeys(run_id, shard, self.tag(shard))


@dataclass(frozen=True, slots=True)
class RunKeys:
    """Key names of one run and of the shard it lives in."""

    run_id: str
    shard: int
    tag: str

    @property
    def stem(self) -> str:
        """Prefix of its dynamic keys."""
        return f"{self.tag}run:{self.run_id}:"

    def __getitem__(self, name: str) -> str:
        """A key by its logical name, as used in the `--!keys` line of a Lua file."""
        if name in RUN_KEYS:
            return f"{self.tag}run:{self.run_id}{RUN_KEYS[name].suffix}"
        if name in SHARD_KEYS:
            return self.tag + STORED_AS.get(name, name)
        kind, _, rest = name.partition(":")
        if kind in DYNAMIC_KEYS:
            return f"{self.tag}run:{self.run_id}{DYNAMIC_KEYS[kind][0]}{rest}"
        return self.tag + _stored(name)
