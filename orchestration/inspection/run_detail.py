"""One run for display: what its steps do right now, what it waits for, its state, the end of its journal.

Everything is bounded: a run may have a hundred thousand work items, and a page that shows it polls every few seconds.
Each part says whether something was left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..model.envelope import INPUT_REQUIRED, SLEEP_ENDED, Envelope
from ..model.plan import Plan
from ..model.waiters import Waiter
from ..store.journal import Entry, newest_entries, read_page
from ..store.reads import StoreReads
from ..store.record import decode, read
from ..store.replies import RunRecord, pairs
from ..store.scripts import unpack
from ..streams.log import EVENT
from ..streams.log import Entry as Published
from .run_rows import start_event

#: Maximum work items that are read; the rest is not counted.
WORK_ITEMS = 2_000
#: Entries of a step's queue that are read one by one, to count the staged work items in them.
QUEUE_ENTRIES = 200
#: Maximum journal entries, newest first, and their bytes.
JOURNAL_ENTRIES, JOURNAL_BYTES = 1_000, 8 << 20
#: Maximum top-level keys of `ctx.store`, bytes of one value and of all.
STATE_KEYS, STATE_VALUE_BYTES, STATE_BYTES = 500, 64 << 10, 1 << 20
#: Maximum waiters.
WAITERS = 200
#: Events at the end of the stream that are searched for a question that the journal lacks.
TAIL = 200

_PAGE = 200


@dataclass(frozen=True, slots=True)
class LiveStep:
    """How many work items of one step are in which state right now.

    Attributes:
        queued: Waiting for a slot (`num_workers`).
        ready: Dispatched, not yet claimed.
        running: Being executed.
        retrying: Failed, waiting for the next attempt.
        waiting: Waiting for an event.
        parked: Waiting for a worker that has their code.
        failed: The run failed on them.
    """

    queued: int = 0
    ready: int = 0
    running: int = 0
    retrying: int = 0
    waiting: int = 0
    parked: int = 0
    failed: int = 0


_STATES = {
    "ready": "ready",
    "running": "running",
    "delayed": "retrying",
    "suspended": "waiting",
    "parked": "parked",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class ActiveStep:
    """One work item that a worker executes right now.

    Attributes:
        attempt: From 1.
        owner: The process, as `worker|host|pid|incarnation`.
        since: When it was claimed, in Redis ms.
    """

    step: str
    work_id: str
    attempt: int
    owner: str
    since: int


@dataclass(frozen=True, slots=True)
class Question:
    """A step that waits for an event from outside.

    Attributes:
        waiter: Which step waits, and for what.
        asked: The event it published when it began to wait; None if it published none, or if that is not known.
        until: When it stops waiting, in Redis ms; None if it waits without a limit.
    """

    waiter: Waiter
    asked: Envelope | None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class StateValue:
    """One top-level key of `ctx.store`.

    Attributes:
        json: The value; None if it is too large to be shown.
        size: Its bytes.
    """

    key: str
    json: bytes | None
    size: int


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One entry: Redis time in ms, kind, data; and, where kept, its commands or what was written to the state."""

    at: int
    kind: str
    data: Any
    commands: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run, bounded in size.

    Attributes:
        record: Its record.
        plan: The plan it runs with.
        now: Redis time in ms.
        began_with: Its start event; None if it began from a snapshot, or if the journal lacks it.
        asleep: Work items that wait for an event.
        head: Number of the last event of the stream; -1 if there is none.
        steps: The work of each step that has any.
        at_work: The executions in progress.
        work_left_out: Not all work items were read.
        questions: Waits for events from outside.
        journal: The newest entries, oldest of them first.
        journal_left_out: How many entries before those were left out.
        state: `ctx.store`, sorted by key.
        state_left_out: How many keys were left out.
    """

    record: RunRecord
    plan: Plan
    now: int
    began_with: Envelope | None
    asleep: int
    head: int
    steps: dict[str, LiveStep]
    at_work: tuple[ActiveStep, ...]
    work_left_out: bool
    questions: tuple[Question, ...]
    journal: tuple[JournalEntry, ...]
    journal_left_out: int
    state: tuple[StateValue, ...]
    state_left_out: int


async def read_detail(store: StoreReads, run_id: str) -> RunDetail:
    """Read a run.

    *Promise:* changes nothing, and reads no more than the bounds above. Its parts are read one after the other, so
    while the run is running one may be a moment newer than another.

    Raises:
        RunNotFound: No such run, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    record = await store.run(run_id)
    plan = await store.plan(run_id, record.plan_digest)
    journal, journal_left_out = await _journal(store, run_id)
    counters = await _counters(store, run_id)
    steps, at_work, work_left_out = await _work(store, run_id, plan)
    state, state_left_out = await _state(store, record)
    return RunDetail(
        record=record,
        plan=plan,
        now=counters.now,
        began_with=await _began_with(store, run_id, journal, journal_left_out),
        asleep=counters.asleep,
        head=counters.head,
        steps=steps,
        at_work=at_work,
        work_left_out=work_left_out,
        questions=await _questions(store, run_id, journal) if record.status == "running" else (),
        journal=journal,
        journal_left_out=journal_left_out,
        state=state,
        state_left_out=state_left_out,
    )


@dataclass(frozen=True, slots=True)
class _Counters:
    now: int
    asleep: int
    head: int


async def _counters(store: StoreReads, run_id: str) -> _Counters:
    key = store.locate(run_id)["run"]
    (seconds, micros), (asleep, seq) = await store.batch("read a run", ("TIME",), ("HMGET", key, "asleep", "seq"))
    return _Counters(int(seconds) * 1000 + int(micros) // 1000, int(asleep or 0), int(seq or 0) - 1)


# -- work ------------------------------------------------------------------------------------------------------------


async def _work(store: StoreReads, run_id: str, plan: Plan) -> tuple[dict[str, LiveStep], tuple[ActiveStep, ...], bool]:
    key = store.locate(run_id)["work"]
    counts: Counter[tuple[str, str]] = Counter()
    at_work: list[ActiveStep] = []
    seen: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, page = await store.command("look at work", "HSCAN", key, cursor, "COUNT", _PAGE)
        for work_id, raw in pairs(page).items():
            if work_id in seen:  # a scan may return an entry twice
                continue
            seen.add(work_id)
            record = decode(raw)
            counts[record.step, _STATES.get(record.state, "ready")] += 1
            if record.state == "running" and record.claimed_at is not None:
                at_work.append(
                    ActiveStep(record.step, work_id.decode(), record.attempt, record.owner, record.claimed_at)
                )
        if cursor == b"0" or len(seen) >= WORK_ITEMS:
            break
    queues = await _queued(store, run_id, [each.name for each in plan.steps])
    for step, queued in queues.items():
        counts[step, "queued"] += queued
    names = dict.fromkeys(step for step, _ in counts)
    steps = {name: LiveStep(**{state: n for (step, state), n in counts.items() if step == name}) for name in names}
    return steps, tuple(sorted(at_work, key=lambda each: each.since)), cursor != b"0"


async def _queued(store: StoreReads, run_id: str, steps: Iterable[str]) -> dict[str, int]:
    """Work items that wait for a slot, per step; see `slots.lua` for how a queue is stored."""
    key = store.locate(run_id)["queue"]
    names = list(steps)
    ends = [f"{name}:{end}" for name in names for end in "ht"]
    found = await store.command("look at queues", "HMGET", key, *ends)
    queued: dict[str, int] = {}
    for number, name in enumerate(names):
        first, last = (int(end or 0) for end in found[2 * number : 2 * number + 2])
        if last <= first:
            continue
        looked = [f"{name}:{at}" for at in range(first + 1, min(last, first + QUEUE_ENTRIES) + 1)]
        entries = await store.command("look at a queue", "HMGET", key, *looked)
        staged = (unpack(raw) for raw in entries if raw is not None)
        sizes = [int(each["n"]) - int(each["i"]) if "seg" in each else not read(each).cancelled for each in staged]
        queued[name] = sum(sizes) + max(0, last - first - QUEUE_ENTRIES)
    return queued


# -- questions -------------------------------------------------------------------------------------------------------


async def _questions(store: StoreReads, run_id: str, journal: Iterable[JournalEntry]) -> tuple[Question, ...]:
    key = store.locate(run_id)["waiters"]
    _, found = await store.command("look at waiters", "HSCAN", key, 0, "COUNT", WAITERS)
    waiters = [Waiter.from_bytes(name.decode(), data) for name, data in list(pairs(found).items())[:WAITERS]]
    waiters = [each for each in waiters if each.event_type != SLEEP_ENDED]
    if not waiters:
        return ()
    timers = store.locate(run_id)["timers"]
    members = (f"waiter|{run_id}|{each.work_id}|{each.waiter_id}" for each in waiters)
    limits = await store.batch("look at waiters", *(("ZSCORE", timers, member) for member in members))
    until = {each: None if at is None else int(float(at)) for each, at in zip(map(_key, waiters), limits, strict=True)}
    asked = _asked(journal)
    by_step = Counter(waiter.step for waiter in waiters)
    unknown = {each.step for each in waiters if _key(each) not in asked and by_step[each.step] == 1}
    asked_last = await _asked_last(store, run_id, unknown) if unknown else {}
    return tuple(
        Question(waiter, asked.get(_key(waiter)) or asked_last.get(waiter.step), until[_key(waiter)])
        for waiter in sorted(waiters, key=lambda each: (each.step, each.work_id, each.waiter_id))
    )


def _key(waiter: Waiter) -> tuple[str, str]:
    return waiter.work_id, waiter.waiter_id


def _asked(journal: Iterable[JournalEntry]) -> dict[tuple[str, str], Envelope]:
    """The event that each waiter published, from the commits that suspended their steps."""
    asked: dict[tuple[str, str], Envelope] = {}
    for entry in journal:
        if entry.kind != "commit" or entry.data.get("out") != "suspended":
            continue
        published: Envelope | None = None
        for command in entry.commands:
            if command["o"] == "publish":
                published = Envelope.from_bytes(command["d"].encode("utf-8", "surrogateescape"))
            elif command["o"] == "suspend" and published is not None:
                asked[entry.data["w"], command["wt"]] = published
    return asked


async def _asked_last(store: StoreReads, run_id: str, steps: set[str]) -> dict[str, Envelope]:
    """The last question each step published, for steps with a single waiter whose question the journal lacks."""
    key = store.locate(run_id)["stream"]
    asked: dict[str, Envelope] = {}
    for entry_id, fields in await store.command("look for questions", "XREVRANGE", key, "+", "-", "COUNT", TAIL):
        entry = Published(int(entry_id.partition(b"-")[0]), EVENT, pairs(fields)[b"d"]).decoded()
        if entry.step in steps and entry.envelope.is_a(INPUT_REQUIRED):
            asked.setdefault(entry.step, entry.envelope)
    return asked


async def _began_with(
    store: StoreReads, run_id: str, journal: Sequence[JournalEntry], journal_left_out: int
) -> Envelope | None:
    if journal_left_out or not journal:
        journal = [read_entry(entry) for entry in (await read_page(store, run_id, 1)).entries[:1]]
    if not journal or journal[0].kind != "start":
        return None
    return start_event(journal[0].commands)


# -- journal and state -----------------------------------------------------------------------------------------------


async def _journal(store: StoreReads, run_id: str) -> tuple[tuple[JournalEntry, ...], int]:
    found: list[JournalEntry] = []
    size = left_out = 0
    async for entry in newest_entries(store, run_id):
        left_out = entry.seq
        if len(found) >= JOURNAL_ENTRIES or size >= JOURNAL_BYTES:
            break
        found.append(read_entry(entry))
        size, left_out = size + entry.size, entry.seq - 1
    return tuple(reversed(found)), left_out


def read_entry(entry: Entry) -> JournalEntry:
    """A journal entry in the form in which it is shown."""
    return JournalEntry(entry.at, entry.kind, entry.about, _commands(entry.kind, entry.commands))


def _commands(kind: str, body: Any) -> Any:
    """The applied commands as one list: a flush has one per send, a rewind has one beside the restored contents."""
    if kind == "state":
        return body
    if isinstance(body, dict):
        return body.get("commands", [])
    return [command for each in body for command in each.get("commands", (each,))]


async def _state(store: StoreReads, record: RunRecord) -> tuple[tuple[StateValue, ...], int]:
    """Keys with their values, sorted; and how many keys were left out."""
    key = store.locate(record.run_id)[f"state:{record.state_id}"]
    names = sorted(await store.command("read a state", "HKEYS", key))
    looked = names[:STATE_KEYS]
    sizes: list[int] = await store.batch("read a state", *(("HSTRLEN", key, name) for name in looked))
    shown: list[bytes] = []
    left = STATE_BYTES
    for name, size in zip(looked, sizes, strict=True):
        if size <= min(left, STATE_VALUE_BYTES):
            shown.append(name)
            left -= size
    values = await store.command("read a state", "HMGET", key, *shown) if shown else []
    by_name: dict[bytes, bytes | None] = dict(zip(shown, values, strict=True))
    found = (
        StateValue(name.decode(errors="replace"), by_name.get(name), size)
        for name, size in zip(looked, sizes, strict=True)
    )
    return tuple(found), len(names) - len(looked)
