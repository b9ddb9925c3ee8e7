"""What a run recorded after a point, in a form that a fork can reuse: outcomes with their dependencies, and answers.

The journal is replayed, which shows what each attempt received and wrote. An outcome is left out, so that its step
executes again, if its inputs cannot be compared: attempts that failed, waited, collected events, ran child runs or were
lost on the way; attempts that read a key of the state that another step wrote meanwhile; attempts of earlier releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...model.envelope import Envelope
from ...model.plan import Plan
from ...snapshots.saved import RunSnapshot, SavedItem
from ...state.redis_hash import Change
from ...store.journal import Entry, entries
from ...store.scripts import unpack
from ...store.verbs import Store
from ..calls import PastCall, past_call
from ..rebuild import rebuilt
from .outcomes import Commands, envelope_of, outcome_of, raw
from .recorded import Recorded, Recordings, digest, digest_of_events, digest_of_state

#: A work item with such entries depends on more than what is compared.
_UNCLEAR = ("collect", "stage", "unstage", "child", "child_started", "child_again")


async def recordings(
    store: Store, run_id: str, seq: int, snapshot: RunSnapshot, plan: Plan, *, outcomes: bool, answers: bool
) -> Recordings:
    """What a run recorded after a point. *Promise:* the run is only read, and may be running.

    Args:
        store: The deployment.
        run_id: The run.
        seq: The point.
        snapshot: The run's live state there.
        plan: The plan that the fork continues with.
        outcomes: Whether to include outcomes.
        answers: Whether to include answers from outside the run.

    Raises:
        HistoryUnavailable, HistoryDamaged: As `rebuilt`.
    """
    past: list[Entry] = []
    after: list[Entry] = []
    async for entry in entries(store, run_id):
        if entry.kind == "rewind" and entry.seq > seq:
            break
        (past if entry.seq <= seq else after).append(entry)
    given = _answers(after) if answers else {}
    if not outcomes or not after or not past:
        return Recordings(answers=given)
    reading = _Reading(run_id, plan)
    for entry in past:
        reading.before(entry)
    reading.at_the_point(snapshot, is_whole=past[0].seq == 1)
    async with rebuilt(store, run_id, past) as scratch:
        details = await scratch.do_again(list(_calls(after)), details=True)
    for entry, each in zip(after, details, strict=True):
        reading.after(entry, each)
    streams = store.locate(run_id)["stream"]
    found: dict[str, Recorded] = {}
    for work_id, attempt in reading.ended.items():
        published = await _published(store, streams, attempt.early)
        if published is not None and attempt.recorded is not None:
            recorded = attempt.recorded
            found[work_id] = recorded if not published else _with(recorded, published)
    return Recordings(found, given)


def _with(recorded: Recorded, published: Sequence[Envelope]) -> Recorded:
    return Recorded(
        recorded.seq,
        recorded.events,
        recorded.read,
        recorded.returned,
        recorded.as_list,
        (*published, *recorded.published),
        recorded.sent,
        recorded.change,
    )


async def _published(store: Store, stream: str, early: Sequence[tuple[int, int]]) -> list[Envelope] | None:
    """What was published early, by first number and count; None if the stream no longer has all of it."""
    found: list[Envelope] = []
    for first, count in early:
        page = await store.command("read a stream", "XRANGE", stream, f"{first}-1", f"{first + count - 1}-1")
        if len(page) != count:
            return None
        found += [Envelope.from_bytes(raw(unpack(fields[1])[0])) for _, fields in page]
    return found


def _calls(after: Iterable[Entry]) -> Iterator[PastCall]:
    """The calls. One that begins attempts also gets the keys of their members, which only their commits name."""
    calls = [past_call(entry) for entry in after]
    gathered: dict[tuple[int, str], set[str]] = {}
    for call in calls:
        names = {name for name in call.names if name.startswith("members:")}
        if call.entry.kind == "commit" and names:
            about = call.entry.about
            gathered.setdefault((about["ca"], about.get("o") or ""), set()).update(names)
    for call in calls:
        if call.entry.kind not in ("claim", "commit"):
            yield call
            continue
        owner = call.wire["args"].get(b"owner", b"")
        owner = owner.decode() if isinstance(owner, bytes) else owner
        more = gathered.get((_instant(call), owner), set())
        yield call if not more else PastCall(call.entry, call.names | more, call.wire, call.answers)


def _instant(call: PastCall) -> int:
    seconds, micros = call.wire["clock"]
    return int(seconds) * 1000 + int(micros) // 1000


def _answers(after: Iterable[Entry]) -> dict[str, dict[str, Envelope]]:
    """The events from outside the run that answered waits."""
    outside: dict[str, Envelope] = {}
    found: dict[str, dict[str, Envelope]] = {}
    for entry in after:
        if entry.kind not in ("send", "commit"):
            continue
        for command in entry.commands:
            if entry.kind == "send" and command["o"] in ("keep", "inbox"):
                outside[command["e"]] = envelope_of(command)
            elif command["o"] == "resume" and command.get("e") in outside:
                found.setdefault(command["w"], {})[command["wt"]] = outside[command["e"]]
    return found


@dataclass(slots=True)
class _Attempt:
    """An attempt, as far as the journal has been read.

    Attributes:
        claimed: The entry by which it began, or an earlier one.
        events: Digest of its events; None if not known.
        is_clear: Nothing is known that prevents its outcome from being reused.
        failed_on: What the failed attempts before it read: key of the state -> digest of its value.
        change: What it wrote to the state.
        sent: What it sent early: identity and commands of each event.
        early: What it published early: number of the first event in the stream, and how many.
        recorded: Its outcome.
    """

    claimed: int
    events: str | None = None
    is_clear: bool = True
    failed_on: Mapping[str, str] = field(default_factory=dict)
    change: Change | None = None
    sent: list[tuple[str, Commands]] = field(default_factory=list)
    early: list[tuple[int, int]] = field(default_factory=list)
    recorded: Recorded | None = None

    @property
    def left_something(self) -> bool:
        """Whether this attempt had effects that a later attempt can see."""
        return not self.is_clear or self.change is not None or bool(self.sent or self.early)


class _Reading:
    """Reads a journal, entry by entry."""

    def __init__(self, run_id: str, plan: Plan) -> None:
        self._run_id, self._plan = run_id, plan
        self._open: dict[str, _Attempt] = {}
        #: Work items whose outcome must not be reused, whatever follows.
        self._unclear: set[str] = set()
        #: Key of the state -> writes to it: entry, work item and digest; before the point, the digest is not known.
        self._writes: dict[str, list[tuple[int, str, str]]] = {}
        self._all_written: tuple[int, str] = (0, "")
        self.ended: dict[str, _Attempt] = {}

    # -- before the point ----------------------------------------------------------------------------------------------

    def before(self, entry: Entry) -> None:
        """Process an entry before the point: records when the attempts began that are running at the point."""
        about, work_id = _about(entry), entry.work_id or _about(entry).get("w") or ""
        if entry.kind == "claim":
            self._begin(entry.seq, work_id)
        elif entry.kind == "commit":
            self._open.pop(work_id, None)
            for group in about.get("led_to") or () if "q" in about else ():
                for each in group["w"]:
                    self._begin(entry.seq, each)
        elif entry.kind == "state":
            if about.get("replace"):
                self._all_written = entry.seq, work_id
            for key in (*(about.get("set") or ()), *(about.get("del") or ())):
                self._writes[key] = [(entry.seq, work_id, "")]
        if entry.kind in ("state", "flush", "published", *_UNCLEAR):
            self._unclear.add(work_id)

    def at_the_point(self, snapshot: RunSnapshot, *, is_whole: bool) -> None:
        """Set the running attempts and the state. Attempts may have begun in a part of the past that is missing."""
        running = {item.work_id: item for item in snapshot.items if item.running}
        self._open = {
            work_id: _Attempt(self._open[work_id].claimed if work_id in self._open else 0, _digest_of(item))
            for work_id, item in running.items()
        }
        for item in snapshot.items:
            if item.running and not is_whole and self._open[item.work_id].claimed == 0:
                self._unclear.add(item.work_id)
            if item.failures or item.resumptions or item.suspended or item.sent or item.calls or item.taken:
                self._unclear.add(item.work_id)
        for key in {*snapshot.state, *self._writes}:
            seq, work_id, _ = max(self._writes.get(key, [(0, "", "")])[-1], (*self._all_written, ""))
            self._writes[key] = [(seq, work_id, digest(snapshot.state.get(key)))]

    # -- after it ------------------------------------------------------------------------------------------------------

    def after(self, entry: Entry, details: Any) -> None:
        """Process an entry after the point, with its details: see `Scratch.do_again`."""
        about, work_id = _about(entry), entry.work_id or _about(entry).get("w") or ""
        match entry.kind:
            case "claim":
                self._begin(entry.seq, *self._given(details))
            case "commit":
                self._committed(entry, about, work_id)
                if details is not None:
                    self._begin(entry.seq, *self._given(details))
            case "state":
                self._state(entry, about, work_id, details)
            case "flush" | "published":
                self._flushed(entry, about, work_id, details)
            case kind if kind in _UNCLEAR:
                self._unclear.add(work_id)

    @staticmethod
    def _given(details: Any) -> tuple[str, str | None]:
        work_id, digests, gathered = details
        is_known = isinstance(digests, list) and bool(digests) and all(digests)
        return work_id, digest_of_events(digests, gathered=bool(gathered)) if is_known else None

    def _begin(self, seq: int, work_id: str, digests: str | None = None) -> None:
        before = self._open.get(work_id)
        if before is not None and before.left_something:
            self._unclear.add(work_id)
        self._open[work_id] = _Attempt(seq, digests, failed_on=before.failed_on if before is not None else {})

    def _state(self, entry: Entry, about: Mapping[str, Any], work_id: str, details: Any) -> None:
        flat = details if isinstance(details, list) else []
        written = {key: raw(value) for key, value in zip(flat[::2], flat[1::2], strict=True)}
        deleted = list(about.get("del") or ())
        if about.get("replace"):
            deleted += [key for key in self._writes if key not in written]
        for key in deleted:
            self._writes.setdefault(key, []).append((entry.seq, work_id, ""))
        for key, value in written.items():
            self._writes.setdefault(key, [(0, "", "")]).append((entry.seq, work_id, digest(value)))
        attempt = self._open.get(work_id)
        if attempt is not None:
            deletes = tuple(about.get("del") or ())
            attempt.change = _both(attempt.change, written, deletes, replace=bool(about.get("replace")))
        elif work_id:
            self._unclear.add(work_id)

    def _flushed(self, entry: Entry, about: Mapping[str, Any], work_id: str, details: Any) -> None:
        attempt = self._open.get(work_id)
        if attempt is None or not isinstance(details, int):
            self._unclear.add(work_id)
            return
        if about["p"]:
            attempt.early.append((details, about["p"]))
        attempt.sent += [(send["id"], send["commands"]) for send in entry.commands]

    def _committed(self, entry: Entry, about: Mapping[str, Any], work_id: str) -> None:
        attempt = self._open.pop(work_id, None)
        if attempt is None:
            self._unclear.add(work_id)
            return
        read = _united(attempt.failed_on, self._read(attempt, about.get("rd"), work_id))
        if about.get("out") not in ("returned", "fannedout"):
            attempt.is_clear = about.get("out") == "failed" and attempt.is_clear and isinstance(read, Mapping)
            attempt.failed_on = read if isinstance(read, Mapping) else {}
            self._open[work_id] = attempt  # if another attempt follows, it sees what this one has done
            return
        self.ended.pop(work_id, None)
        if work_id in self._unclear or not attempt.is_clear or attempt.events is None or "staged" in about:
            return
        came_to = outcome_of(self._plan, entry.commands, work_id, about, attempt.sent)
        if read is None or came_to is None:
            return
        attempt.recorded = Recorded(
            entry.seq,
            attempt.events,
            read,
            came_to.returned,
            about["out"] == "fannedout",
            came_to.published,
            came_to.sent,
            attempt.change,
        )
        self.ended[work_id] = attempt

    def _read(self, attempt: _Attempt, names: Any, work_id: str) -> Mapping[str, str] | str | None:
        """The digests of the keys that an attempt read; None if they are not known."""
        if names is None:  # executed by an earlier release
            return None
        keys = list(self._writes) if names == 1 else names or []
        held = {key: self._held(key, attempt.claimed, work_id) for key in keys}
        if any(each is None for each in held.values()):
            return None
        known = {key: each for key, each in held.items() if each is not None}
        return digest_of_state(known) if names == 1 else known

    def _held(self, key: str, claimed: int, work_id: str) -> str | None:
        """The digest of a key when an attempt began; None if another writer has written to it since, or if unknown."""
        writes = self._writes.get(key) or [(0, "", "")]
        if any(seq > claimed and writer != work_id for seq, writer, _ in writes):
            return None
        earlier = [each for seq, _, each in writes if seq <= claimed]
        return earlier[-1] if earlier else None


def _united(before: Mapping[str, str], read: Mapping[str, str] | str | None) -> Mapping[str, str] | str | None:
    """What several attempts read in total; None if they read different values, or if that is not known."""
    if not before or read is None:
        return read
    if isinstance(read, str) or any(read.get(key, held) != held for key, held in before.items()):
        return None
    return {**before, **read}


def _both(before: Change | None, written: Mapping[str, bytes], deletes: Sequence[str], *, replace: bool) -> Change:
    """Merge two writes into one."""
    if before is None or replace:
        return Change("recorded", dict(written), deletes, replace)
    kept = {key: value for key, value in before.set.items() if key not in deletes}
    gone = [key for key in (*before.delete, *deletes) if key not in written]
    return Change("recorded", {**kept, **written}, tuple(dict.fromkeys(gone)), before.replace)


def _about(entry: Entry) -> Mapping[str, Any]:
    return entry.about if isinstance(entry.about, dict) else {}


def _digest_of(item: SavedItem) -> str:
    return digest_of_events((digest(event.content()) for event in item.events), gathered=item.fan_in is not None)
