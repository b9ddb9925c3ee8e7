"""What is known of a deployment after a chaos run, from Redis and the effect log; `invariants` checks it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from support.chaos.deployment import ChaosDeployment
from support.chaos.effect_log import bookings
from support.store.blocking import BlockingStore
from umbel.orchestration.connection.keys import state_id_of
from umbel.orchestration.history.verify import verify
from umbel.orchestration.inspection.timeline import Execution, executions
from umbel.orchestration.model.envelope import STOP, Envelope
from umbel.orchestration.model.errors import HistoryDamaged
from umbel.orchestration.store.verbs import Store


@dataclass
class RunSeen:
    """One run.

    Attributes:
        run_id: The run's id.
        kind: The kind of workflow.
        status: The status in Redis; None when Redis does not know the run.
        result: The result of its handler, or the exception that the handler raised.
        expected: The expected result.
        commits: The expected number of final outcomes per step; None if unknown.
        counted: The value of the run's own commit counter.
        journal: (instant, kind, data), oldest first.
        numbers: Numbers of all entries of its stream and its trace.
        published: Numbers of the events of its stream.
        read: Numbers of the events that a reader received while the run was in progress; None without a reader.
        last: Number of the event that ended it; None when its stream has none.
        seq: How many numbers have been assigned.
        effects: The effects that its steps recorded outside Redis.
        booked: Keys under which the bank has booked for it.
        unlike_journal: Differences between the run and the replay of its journal.
        lifetimes: Its keys and their TTL in ms; -1 means no expiry.
    """

    run_id: str
    kind: str
    status: str | None = None
    result: Any = None
    expected: Any = None
    commits: dict[str, int] | None = None
    counted: int = 0
    journal: list[tuple[int, str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    read: list[int] | None = None
    last: int | None = None
    seq: int = 0
    effects: list[dict[str, Any]] = field(default_factory=list)
    booked: list[str] = field(default_factory=list)
    unlike_journal: list[str] = field(default_factory=list)
    lifetimes: dict[str, int] = field(default_factory=dict)

    @property
    def executions(self) -> list[Execution]:
        """All executions in its journal since its last rewind; before it, the same work may have outcomes already."""
        put_back = max((place for place, (_, kind, _) in enumerate(self.journal) if kind == "rewind"), default=-1)
        return executions(self.journal[put_back + 1 :])


@dataclass
class Leftovers:
    """What an idle deployment must not have.

    Attributes:
        indexed: Index of a shard -> its members.
        held: Owner key -> the members its set still lists.
        for_good: Keys without a TTL that are neither an index nor a plan.
        expiring: Keys of running runs that have a TTL.
        missing_workers: Names of workers that ended without having been killed.
    """

    indexed: dict[str, list[str]] = field(default_factory=dict)
    held: dict[str, list[str]] = field(default_factory=dict)
    for_good: list[str] = field(default_factory=list)
    expiring: list[str] = field(default_factory=list)
    missing_workers: list[str] = field(default_factory=list)


#: Indexes that are empty when the deployment is idle.
BUSY_INDEXES = (
    "unclaimed",
    "unclaimed_counts",
    "timers",
    "leases",
    "parked",
    "awaiting_admission",
    "releasing",
    "retire",
    "outbox",
    "lines",
    "runs:running",
)
#: Prefixes, behind the shard tag, of the keys that live as long as the deployment.
LASTING = (
    "deployment",
    "runs:",
    "sessions",
    "counters",
    "workers",
    "swept_at",
    "watermark",
    "packed_until",
    "packing",
    "gone",
    "limits",
    "plan:",
    "beat:",
    "places:",
    "waiting:",
)


def see_runs(deployment: ChaosDeployment, wanted: Iterable[RunSeen]) -> list[RunSeen]:
    """Add what Redis and the effect log know of these runs."""
    store = deployment.store
    noted: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in deployment.effects():
        noted[line.get("run", "")].append(line)
    booked: dict[str, list[str]] = defaultdict(list)
    for key in bookings(deployment.folder):
        booked[key.partition("/")[0]].append(key)
    runs = list(wanted)
    for run in runs:
        keys = store.locate(run.run_id)
        pipe = store.client.pipeline(transaction=False)
        pipe.hmget(keys["run"], "status", "commits", "seq")
        pipe.xrange(keys["stream"])
        pipe.xrange(keys["trace"])
        names = [keys[name] for name in ("run", "work", "events", "stream", "trace", "journal", "scopes", "slots")]
        for name in names:
            pipe.pttl(name)
        (status, commits, seq), stream, trace, *lives = pipe.execute()
        run.status = status.decode() if status else None
        run.counted, run.seq = int(commits or 0), int(seq or 0)
        run.numbers = sorted(int(entry_id.split(b"-")[0]) for entry_id, _ in [*stream, *trace])
        run.published = sorted(int(entry_id.split(b"-")[0]) for entry_id, _ in stream)
        run.journal = store.journal(run.run_id)
        is_put_back = any(kind == "rewind" for _, kind, _ in run.journal)
        run.last = _end_in(stream[::-1] if is_put_back else stream)
        run.effects, run.booked = noted[run.run_id], booked[run.run_id]
        run.lifetimes = {name: life for name, life in zip(names, lives, strict=True) if life != -2}
    there = [run for run in runs if run.status is not None]
    for run, found in zip(there, store.call(_unlike_journals, store, [run.run_id for run in there]), strict=True):
        run.unlike_journal = found
    return runs


async def _unlike_journals(store: Store, run_ids: list[str]) -> list[list[str]]:
    """Return where runs differ from the replay of their journals; a few run concurrently, which is faster."""
    some = asyncio.Semaphore(8)

    async def differences(run_id: str) -> list[str]:
        async with some:
            try:
                return [str(each) for each in (await verify(store, run_id)).differences]
            except HistoryDamaged as damaged:
                return [str(damaged)]

    return await asyncio.gather(*map(differences, run_ids))


def _end_in(stream: list[tuple[bytes, dict[bytes, bytes]]]) -> int | None:
    """Return the number of the first event here that ends a run; chaos runs publish such an event only at their end."""
    for entry_id, fields in stream:
        if Envelope.from_bytes(msgpack.unpackb(fields[b"d"], raw=True)[0]).is_a(STOP):
            return int(entry_id.split(b"-")[0])
    return None


def expiring_keys(store: BlockingStore, keys: Iterable[str]) -> list[str]:
    """Return those of these keys that belong to a running run and have a TTL: there must be none.

    State locks, and replies that are remembered for a minute, are not counted: they have a TTL by design.
    """
    going_on = _running(store)
    states = {state_id_of(run_id) for run_id in going_on}
    owned = []
    for key in keys:
        kind, _, rest = key.partition("}:")[2].partition(":")
        owner, _, suffix = rest.partition(":")
        is_run = kind == "run" and owner in going_on and not suffix.startswith("answer:")
        if is_run or (kind in ("state", "handler") and not suffix and owner in states):
            owned.append((key, owner))
    pipe = store.client.pipeline(transaction=False)
    for key, _ in owned:
        pipe.pttl(key)
    found = [(key, owner) for (key, owner), life in zip(owned, pipe.execute(), strict=True) if life >= 0]
    still = _running(store) & going_on  # a run that has ended meanwhile rightly has TTLs
    of_states = {state_id_of(run_id) for run_id in still}
    return [key for key, owner in found if owner in still or owner in of_states]


def _running(store: BlockingStore) -> set[str]:
    indexes = [store.keys.in_shard(shard, "runs:running") for shard in range(store.settings.shards)]
    return {raw.decode() for index in indexes for raw in store.client.zrange(index, 0, -1)}


def see_leftovers(deployment: ChaosDeployment) -> Leftovers:
    """Look for everything that an idle deployment must not have."""
    store, found = deployment.store, Leftovers()
    client, prefix = store.client, store.settings.key_prefix
    for shard in range(store.settings.shards):
        for name in BUSY_INDEXES:
            key = store.keys.in_shard(shard, name)
            raw = client.hkeys(key) if name == "unclaimed_counts" else client.zrange(key, 0, -1)
            if raw:
                found.indexed[key] = [member.decode() for member in raw]
    others = []
    for raw in client.scan_iter(match=f"{prefix}:{{*", count=1000):
        key = raw.decode()
        name = key.partition("}:")[2]
        if name.startswith("owner:"):
            found.held[key] = [member.decode() for member in client.smembers(key)]
        elif not name.startswith(LASTING):
            others.append(key)
    found.expiring = expiring_keys(store, others)
    for start in range(0, len(others), 1000):
        pipe = client.pipeline(transaction=False)
        for key in others[start : start + 1000]:
            pipe.pttl(key)
        found.for_good += [key for key, life in zip(others[start:], pipe.execute(), strict=False) if life == -1]
    killed = deployment.killed_by_failpoints()
    ended = [worker for worker in deployment.workers if worker.process.poll() is not None]
    found.missing_workers = [worker.name for worker in ended if worker.pid not in killed]
    return found
