"""The attempts in a run's journal: what each received, what it read and wrote, and its outcome.

The journal is replayed once, entry by entry, on scratch keys (`rebuild.py`). What an attempt received is in its work
record, as that stands just before the outcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..connection.keys import state_id_of
from ..model.envelope import Envelope
from ..model.work_item import Work, derive_id
from ..store.journal import Entry
from ..store.record import WorkRecord, decode
from ..store.replies import claimed_work, pairs
from ..store.scripts import unpack
from ..store.verbs import Store
from ..streams.log import read_page
from .packing.checkpoints import instant_in, packed
from .rebuild import rebuilding
from .scratch import Scratch

#: Prefix of `ctx.once` values among the names of a work item's calls.
_ONCE = "once|"


@dataclass(frozen=True, slots=True)
class StateWrite:
    """One write to the state.

    Attributes:
        work_id: The work item that wrote; empty for a caller, and for the start, a restore, a rewind or a session's
            turn.
        before: The changed keys with their previous values; None for a key that did not exist.
        after: The same keys with their new values; None for a key that was deleted.
    """

    work_id: str
    before: Mapping[str, bytes | None]
    after: Mapping[str, bytes | None]


@dataclass(frozen=True, kw_only=True)
class RecordedAttempt:
    """One attempt of a step that has reported an outcome.

    Attributes:
        seq: Number of the journal entry with the outcome.
        work: What the attempt received. All its events are in `bound`, also those of a fan-in.
        outcome: `returned`, `fannedout`, `failed`, `suspended`, `awaiting` or `grouped`.
        error: For a failure: class and message, truncated as in the journal.
        commands: The commands applied for the outcome and for what the attempt sent and published, as in the journal.
        is_cut: The attempt began before the oldest journal entry that is kept; the rest may lack part of what it did.
        is_taken: The outcome was taken from the run that this one was forked from; no step was executed.
        early: Events published before the outcome, from the run's stream; None for each that the stream has dropped.
        state: The state when the attempt began.
        writes: All writes to the state from then until the outcome, by any writer.
        memos: Key of each `ctx.once` of the work item -> JSON.
        answers: Name of each `collect_events` call of the work item -> the set that it completed, None if it did not.
        added: Name of a `collect_events` call -> the event that it added in this attempt.
    """

    seq: int
    work: Work
    outcome: str
    error: str
    commands: tuple[Mapping[str, Any], ...]
    is_cut: bool
    is_taken: bool
    early: tuple[Envelope | None, ...]
    state: Mapping[str, bytes]
    writes: tuple[StateWrite, ...]
    memos: Mapping[str, bytes]
    answers: Mapping[str, tuple[Envelope, ...] | None]
    added: Mapping[str, Envelope]


async def attempts(store: Store, run_id: str, past: list[Entry]) -> AsyncIterator[RecordedAttempt]:
    """The attempts of a run that have reported an outcome, in the order of their outcomes.

    *Promise:* as `rebuilt`.

    Raises:
        HistoryUnavailable, HistoryDamaged: As `rebuilt`.
    """
    since = None
    if past and past[0].seq > 1:
        kept = (await packed(store, run_id)).checkpoints
        since = next((name for seq, name in kept.items() if seq >= past[0].seq - 1), None)
    async with rebuilding(store, run_id, past, since) as (scratch, calls):
        reading = _Reading(scratch, kept_since=instant_in(since) if since else 0)
        await reading.begin()
        done = 0
        for number, entry in enumerate(past[len(past) - len(calls) :]):
            if entry.kind in ("commit", "flush", "published"):
                await scratch.do_again(calls[done:number])
                done = number
                if entry.kind == "commit":
                    yield await reading.attempt(entry)
            elif entry.kind in ("start", "restore", "rewind", "state", "turn"):
                await scratch.do_again(calls[done : number + 1])
                done = number + 1
            await reading.passed(entry)


class _Reading:
    """The data gathered up to a journal entry. The scratch run is at that entry or shortly before it."""

    def __init__(self, scratch: Scratch, kept_since: int) -> None:
        self._scratch, self._keys, self._kept_since = scratch, scratch.keys, kept_since
        self._state_key = scratch.keys[f"state:{state_id_of(scratch.run_id)}"]
        self._state: dict[str, bytes] = {}
        #: (number of the entry, its time in ms, the write).
        self._writes: list[tuple[int, int, StateWrite]] = []
        #: Work item -> number of the entry with its last separate claim or its last outcome.
        self._last: dict[str, int] = {}
        #: For attempts that have not ended, by work item.
        self._commands: dict[str, list[Mapping[str, Any]]] = {}
        self._early: dict[str, list[Envelope | None]] = {}
        self._added: dict[str, dict[str, Envelope]] = {}

    async def begin(self) -> None:
        """Read the state that exists before the first entry."""
        self._state = await self._whole_state()

    async def _whole_state(self) -> dict[str, bytes]:
        found = pairs(await self._command("HGETALL", self._state_key))
        return {name.decode(): value for name, value in found.items()}

    async def passed(self, entry: Entry) -> None:
        """Record what an entry contributes to an attempt."""
        work_id, args = entry.work_id, entry.arguments
        match entry.kind:
            case "state":
                await self._written(entry)
            case "start" | "restore" | "rewind" | "turn":
                await self._written(entry, whole=True)
            case "collect":
                call, event = args[b"call"].decode(), Envelope.from_bytes(args[b"d"])
                self._added.setdefault(work_id, {})[call] = event
            case "flush" | "published":
                self._early.setdefault(work_id, []).extend(await self._published(int(entry.about["p"])))
                for send in entry.commands:
                    self._commands.setdefault(work_id, []).extend(send["commands"])
            case "stage":
                self._commands.setdefault(work_id, []).extend(_staged(args))
            case "claim" | "commit":  # drops what a lost attempt left
                self._commands.pop(work_id, None)
                self._early.pop(work_id, None)
                self._added.pop(work_id, None)
                self._last[work_id] = entry.seq

    async def attempt(self, entry: Entry) -> RecordedAttempt:
        """The attempt whose outcome an entry records. The scratch run is just before that entry."""
        packed = await self._command("HGET", self._keys["work"], entry.work_id)
        record = decode(packed)
        work = await self._work(entry.work_id, record, packed)
        window = self._window(work)
        state = dict(self._state)
        for write in reversed(window):
            _apply(state, write.before)
        names = [name for name in record.calls if not name.startswith(_ONCE)]
        kept = [name for name in record.calls if name.startswith(_ONCE)]
        values = await self._command("HMGET", self._keys["collect"], *kept) if kept else []
        return RecordedAttempt(
            seq=entry.seq,
            work=work,
            outcome=entry.about["out"],
            error=entry.about.get("error", ""),
            commands=(*self._commands.get(work.work_id, ()), *entry.commands),
            is_cut=work.claimed_at <= self._kept_since,
            is_taken=bool(entry.about.get("re")),
            early=tuple(self._early.get(work.work_id, ())),
            state=state,
            writes=tuple(window),
            memos={name.split("|", 2)[2]: value for name, value in zip(kept, values, strict=True)},
            answers={name: await self._answer(name) for name in names},
            added=self._added.get(work.work_id, {}),
        )

    async def _command(self, *words: Any) -> Any:
        return await self._scratch.store.command("read a rebuilt run", *words)

    async def _work(self, work_id: str, record: WorkRecord, packed: bytes) -> Work:
        run = pairs(await self._command("HGETALL", self._keys["run"]))
        meta = {name: run[name.encode()].decode() for name in ("plan", "workflow", "state_id", "options")}
        about = {**meta, "created_at": 0, "wv": 0, "branch": int(run.get(b"branch", 0))}
        work = claimed_work(self._scratch.run_id, work_id, unpack(packed), about, await self._payloads(record))
        if record.scope_id is None:
            return work
        gathered = await self._listed(f"members:{record.scope_id}:{record.step}", record.members or 0)
        return replace(work, bound=gathered, members=None)

    async def _payloads(self, record: WorkRecord) -> list[bytes]:
        """The payloads in the order of a claim's reply: the events, then each wait's name followed by its answer."""
        events = [record.event] if record.event is not None else await self._events(record.all_event_ids)
        answered = {name: str(event_id) for name, event_id in record.answers.items() if event_id}
        by_name = dict(zip(answered, await self._events(answered.values()), strict=True))
        return [*events, *(part for name in record.answers for part in (name.encode(), by_name.get(name, b"")))]

    async def _events(self, ids: Iterable[str]) -> list[bytes]:
        wanted = list(ids)
        return [*(await self._command("HMGET", self._keys["events"], *wanted))] if wanted else []

    async def _published(self, count: int) -> list[Envelope | None]:
        """The events published by the call that the scratch run applies next: the next numbers of the stream."""
        if not count:
            return []
        first = int(await self._command("HGET", self._keys["run"], "seq") or 0)
        page = await read_page(self._scratch.store, self._scratch.run_id, first - 1, with_traces=False, most=count)
        found = {entry.seq: entry.decoded().envelope for entry in page.entries}
        return [found.get(seq) for seq in range(first, first + count)]

    async def _listed(self, name: str, length: int) -> tuple[Envelope, ...]:
        raw = await self._command("LRANGE", self._keys[name], 0, length - 1) if length else ()
        return tuple(map(Envelope.from_bytes, raw))

    async def _answer(self, call: str) -> tuple[Envelope, ...] | None:
        if await self._command("HGET", self._keys["collect"], call) != b"complete":
            return None
        return await self._listed(f"taken:{derive_id(call)}", 1 << 31)

    async def _written(self, entry: Entry, *, whole: bool = False) -> None:
        about, before = entry.about, self._state
        if whole or about.get("replace"):
            after = await self._whole_state()
            names = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        else:
            names = {*about["set"], *(about["del"] or ())}
            read = await self._command("HMGET", self._state_key, *names) if names else []
            after = {name: value for name, value in zip(names, read, strict=True) if value is not None}
        write = StateWrite(
            "" if whole else entry.work_id,
            {name: before.get(name) for name in names},
            {name: after.get(name) for name in names},
        )
        _apply(self._state, write.after)
        self._writes.append((entry.seq, entry.at, write))

    def _window(self, work: Work) -> list[StateWrite]:
        """The writes since an attempt began, possibly with some from the same millisecond before it began."""
        found = []
        for seq, at, write in reversed(self._writes):
            if at < work.claimed_at or seq <= self._last.get(work.work_id, 0):
                break
            found.append(write)
        return found[::-1]


def _apply(state: dict[str, bytes], values: Mapping[str, bytes | None]) -> None:
    for name, value in values.items():
        if value is None:
            state.pop(name, None)
        else:
            state[name] = value


def _staged(args: Mapping[bytes, Any]) -> Iterator[dict[str, Any]]:
    """The events of a chunk of a large fan-out, as the equivalent commands."""
    _, _, step = args[b"seg"].decode().rpartition(":")
    for item in args[b"items"]:
        if b"at" in item:
            yield {"o": "absorb", "s": step, "d": item[b"d"]}
        else:
            yield {"o": "keep", "e": item[b"e"].decode(), "d": item[b"d"]}
