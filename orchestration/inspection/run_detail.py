"""One run as people look at it: what its steps do right now, what it waits for, its state, the end of its journal.

Everything is bounded: a run may hold a hundred thousand work items, and a page that shows one asks every few seconds.
Each part says whether something was left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..model.envelope import INPUT_REQUIRED, Envelope
from ..model.plan import Plan
from ..model.work_item import Waiter
from ..store.blocking_reads import BlockingReads as StoreReads
from ..store.record import decode
from ..store.replies import RunRecord, unpack_raw
from ..store.scripts import unpack
from ..streams.log import EVENT, Entry

#: Work items that are looked at; the rest is not counted.
WORK_ITEMS = 2_000
#: Entries of a step's queue that are looked at one by one, to count what is staged behind them.
QUEUE_ENTRIES = 200
#: Journal entries, newest first, and their bytes.
JOURNAL_ENTRIES, JOURNAL_BYTES = 1_000, 8 << 20
#: Top-level keys of `ctx.store`, bytes of one value and of all.
STATE_KEYS, STATE_VALUE_BYTES, STATE_BYTES = 500, 64 << 10, 1 << 20
#: Waiters.
WAITERS = 200
#: Events at the end of the stream that are searched for a question that the journal does not have.
TAIL = 200

_PAGE = 200


@dataclass(frozen=True, slots=True)
class LiveStep:
    """What one step does right now, in work items.

    Attributes:
        queued: Wait for a slot (`num_workers`).
        ready: Dispatched, taken by no worker yet.
        running: Being executed.
        retrying: Failed, and wait for their next attempt.
        waiting: Wait for an event.
        parked: Wait for a worker that has their code.
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
    """A step waits for an event from outside.

    Attributes:
        waiter: Who waits, for what.
        asked: The event it published when it began to wait; None when it published none, or it is not known.
    """

    waiter: Waiter
    asked: Envelope | None


@dataclass(frozen=True, slots=True)
class StateValue:
    """One top-level key of `ctx.store`.

    Attributes:
        json: The value; None when it is too large to be shown.
        size: Its bytes.
    """

    key: str
    json: bytes | None
    size: int


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One entry: Redis time in ms, kind, data, and the commands where they are kept."""

    at: int
    kind: str
    data: Any
    commands: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run, bounded.

    Attributes:
        record: Its record.
        plan: What it runs by.
        now: Redis time in ms.
        began_with: Its start event; None when it began with a snapshot, or the journal does not have it.
        asleep: Work items that wait for an event.
        head: The last number given to an event; -1 when there is none.
        steps: Of each step that has work.
        at_work: What is executed right now.
        work_left_out: Not all work items were looked at.
        questions: Who waits for events from outside.
        journal: The end of it, oldest first.
        journal_left_out: Entries before those.
        state: `ctx.store`, sorted by key.
        state_left_out: Keys that are not among them.
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


def read_detail(store: StoreReads, run_id: str) -> RunDetail:
    """Read a run.

    *Promise:* changes nothing, and reads no more than the bounds above. Its parts are read one after the other, so
    while the run is running one may be a moment newer than another.

    Raises:
        RunNotFound: No such run, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    record = store.run(run_id)
    plan = store.plan(run_id, record.plan_digest)
    journal, journal_left_out = _journal(store, run_id)
    counters = _counters(store, run_id)
    steps, at_work, work_left_out = _work(store, run_id, plan)
    state, state_left_out = _state(store, record)
    return RunDetail(
        record=record,
        plan=plan,
        now=counters.now,
        began_with=_began_with(store, run_id, journal, journal_left_out),
        asleep=counters.asleep,
        head=counters.head,
        steps=steps,
        at_work=at_work,
        work_left_out=work_left_out,
        questions=_questions(store, run_id, journal) if record.status == "running" else (),
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


def _counters(store: StoreReads, run_id: str) -> _Counters:
    key = store.locate(run_id)["run"]

    def read() -> Any:
        pipe = store.client.pipeline(transaction=False)
        pipe.time().hmget(key, "asleep", "seq")
        return pipe.execute()

    (seconds, micros), (asleep, seq) = store.read("read a run", read)
    return _Counters(seconds * 1000 + micros // 1000, int(asleep or 0), int(seq or 0) - 1)


# -- work ------------------------------------------------------------------------------------------------------------


def _work(store: StoreReads, run_id: str, plan: Plan) -> tuple[dict[str, LiveStep], tuple[ActiveStep, ...], bool]:
    key = store.locate(run_id)["work"]
    counts: Counter[tuple[str, str]] = Counter()
    at_work: list[ActiveStep] = []
    seen: set[bytes] = set()
    cursor = 0
    while True:
        cursor, page = store.read("look at work", partial(store.client.hscan, key, cursor, count=_PAGE))
        for work_id, raw in page.items():
            if work_id in seen:  # a scan may give the same twice
                continue
            seen.add(work_id)
            record = decode(raw)
            counts[record.step, _STATES.get(record.state, "ready")] += 1
            if record.state == "running" and record.claimed_at is not None:
                at_work.append(
                    ActiveStep(record.step, work_id.decode(), record.attempt, record.owner, record.claimed_at)
                )
        if cursor == 0 or len(seen) >= WORK_ITEMS:
            break
    for step, queued in _queued(store, run_id, [each.name for each in plan.steps]).items():
        counts[step, "queued"] += queued
    names = dict.fromkeys(step for step, _ in counts)
    steps = {name: LiveStep(**{state: n for (step, state), n in counts.items() if step == name}) for name in names}
    return steps, tuple(sorted(at_work, key=lambda each: each.since)), cursor != 0


def _queued(store: StoreReads, run_id: str, steps: Iterable[str]) -> dict[str, int]:
    """Work items without a slot, per step; see `slots.lua` for how a queue is kept."""
    key = store.locate(run_id)["queue"]
    names = list(steps)
    ends = [f"{name}:{end}" for name in names for end in "ht"]
    found = store.read("look at queues", lambda: store.client.hmget(key, ends))
    queued: dict[str, int] = {}
    for number, name in enumerate(names):
        first, last = (int(end or 0) for end in found[2 * number : 2 * number + 2])
        if last <= first:
            continue
        looked = [f"{name}:{at}" for at in range(first + 1, min(last, first + QUEUE_ENTRIES) + 1)]
        entries = store.read("look at a queue", partial(store.client.hmget, key, looked))
        staged = (unpack_raw(raw) for raw in entries if raw is not None)
        sizes = [int(each[b"n"]) - int(each[b"i"]) if b"seg" in each else 1 for each in staged]
        queued[name] = sum(sizes) + max(0, last - first - QUEUE_ENTRIES)
    return queued


# -- questions -------------------------------------------------------------------------------------------------------


def _questions(store: StoreReads, run_id: str, journal: Iterable[JournalEntry]) -> tuple[Question, ...]:
    key = store.locate(run_id)["waiters"]
    found = store.read("look at waiters", lambda: store.client.hscan(key, 0, count=WAITERS))[1]
    waiters = [Waiter.from_bytes(name.decode(), data) for name, data in list(found.items())[:WAITERS]]
    if not waiters:
        return ()
    asked = _asked(journal)
    by_step = Counter(waiter.step for waiter in waiters)
    unknown = {each.step for each in waiters if (each.work_id, each.waiter_id) not in asked and by_step[each.step] == 1}
    asked_last = _asked_last(store, run_id, unknown) if unknown else {}
    return tuple(
        Question(waiter, asked.get((waiter.work_id, waiter.waiter_id)) or asked_last.get(waiter.step))
        for waiter in sorted(waiters, key=lambda each: (each.step, each.work_id, each.waiter_id))
    )


def _asked(journal: Iterable[JournalEntry]) -> dict[tuple[str, str], Envelope]:
    """What each waiter has published, from the commits that suspended their steps."""
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


def _asked_last(store: StoreReads, run_id: str, steps: set[str]) -> dict[str, Envelope]:
    """The last question each step has published: where the journal lacks it and the step has one waiter only."""
    key = store.locate(run_id)["stream"]
    asked: dict[str, Envelope] = {}
    for entry_id, fields in store.read("look for questions", lambda: store.client.xrevrange(key, count=TAIL)):
        entry = Entry(int(entry_id.partition(b"-")[0]), EVENT, fields[b"d"]).decoded()
        if entry.step in steps and entry.envelope.is_a(INPUT_REQUIRED):
            asked.setdefault(entry.step, entry.envelope)
    return asked


def _began_with(
    store: StoreReads, run_id: str, journal: Sequence[JournalEntry], journal_left_out: int
) -> Envelope | None:
    if journal_left_out or not journal:
        key = store.locate(run_id)["journal"]
        journal = [_entry(*raw) for raw in store.read("read a journal", lambda: store.client.xrange(key, count=1))]
    if not journal or journal[0].kind != "start":
        return None
    kept = (command["d"] for command in journal[0].commands if command["o"] == "keep")
    return next((Envelope.from_bytes(data.encode("utf-8", "surrogateescape")) for data in kept), None)


# -- journal and state -----------------------------------------------------------------------------------------------


def _journal(store: StoreReads, run_id: str) -> tuple[tuple[JournalEntry, ...], int]:
    key = store.locate(run_id)["journal"]
    total: int = store.read("read a journal", lambda: store.client.xlen(key))
    found: list[JournalEntry] = []
    before, size = "+", 0
    while len(found) < JOURNAL_ENTRIES and size < JOURNAL_BYTES:
        page = store.read("read a journal", partial(store.client.xrevrange, key, before, count=_PAGE))
        for entry_id, fields in page:
            size += sum(map(len, fields.values()))
            found.append(_entry(entry_id, fields))
        if len(page) < _PAGE:
            break
        before = f"({page[-1][0].decode()}"
    return tuple(reversed(found)), max(0, total - len(found))


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> JournalEntry:
    commands = unpack(fields[b"c"]) if b"c" in fields else []
    return JournalEntry(int(entry_id.partition(b"-")[0]), fields[b"k"].decode(), unpack(fields[b"d"]), commands)


def _state(store: StoreReads, record: RunRecord) -> tuple[tuple[StateValue, ...], int]:
    """Keys with their values, sorted; how many keys were not looked at."""
    key = store.locate(record.run_id)[f"state:{record.state_id}"]
    names = sorted(store.read("read a state", lambda: store.client.hkeys(key)))
    looked = names[:STATE_KEYS]

    def measure() -> Any:
        pipe = store.client.pipeline(transaction=False)
        for name in looked:
            pipe.hstrlen(key, name)
        return pipe.execute()

    sizes: list[int] = store.read("read a state", measure) if looked else []
    shown: list[bytes] = []
    left = STATE_BYTES
    for name, size in zip(looked, sizes, strict=True):
        if size <= min(left, STATE_VALUE_BYTES):
            shown.append(name)
            left -= size
    values = store.read("read a state", lambda: store.client.hmget(key, shown)) if shown else []
    by_name: dict[bytes, bytes | None] = dict(zip(shown, values, strict=True))
    found = (
        StateValue(name.decode(errors="replace"), by_name.get(name), size)
        for name, size in zip(looked, sizes, strict=True)
    )
    return tuple(found), len(names) - len(looked)
