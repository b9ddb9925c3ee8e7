"""Points of a run's past: the entries of its journal, and the run as it was at one of them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from ..model.errors import HistoryUnavailable, PointNotFound
from ..snapshots.saved import RunSnapshot
from ..store.journal import Entry, entries, extent
from ..store.verbs import Store
from .json_patch import difference
from .packing.checkpoints import instant_in, packed, seq_in
from .rebuild import rebuilt, rebuilt_contents, version_at_turn

Edge = Literal["before", "after"]

_PHRASE = re.compile(r"(before|after) (\S+?)(?:#([1-9][0-9]{0,8}))?")


@dataclass(frozen=True)
class Point:
    """One change of a run.

    Attributes:
        run_id: The run.
        seq: Number of the change, from 1.
        at: When it happened, by Redis's clock.
        kind: `start`, `claim`, `commit`, `state`, `send`, `wake`, `end`, `rewind`, …
        step: The step it concerns; empty if it concerns the run.
        attempt: The step's attempt; 0 if it concerns no attempt.
        work_id: The work item; empty if it concerns the run.
        worker: Name of the worker; empty if no attempt made the change.
        outcome: For a commit: `returned`, `failed`, `suspended`, …; else empty.
        event: For a commit that returned an event: its wire name.
        reused: The outcome was recorded by another run; no step was executed.
        back_to: For a rewind: the number of the point that the run was put back to; else 0.
        branch: How often the run had been rewound by then.
        state_version: The version of the state after the change. Before the run's turn in its session, the version that
            it began with.
        bytes: Size of its journal entry.
    """

    run_id: str
    seq: int
    at: datetime
    kind: str
    step: str
    attempt: int
    work_id: str
    worker: str
    outcome: str
    event: str
    branch: int
    state_version: int
    bytes: int
    reused: bool = False
    back_to: int = 0

    def __str__(self) -> str:
        name = f" {self.step}" if self.step else ""
        return f"{self.seq} {self.kind}{name}" + (f" attempt {self.attempt}" if self.attempt else "")


@dataclass(frozen=True)
class RunAt(Point):
    """A run as it was after one change.

    Attributes:
        snapshot: Its live state then. Before the run's turn in its session, the state is the one that it began with.
        lacks_state: It has not had its turn, so that the state it will begin with is not known yet.
    """

    snapshot: RunSnapshot = field(default_factory=lambda: RunSnapshot(workflow="", status=""), repr=False)
    lacks_state: bool = False

    def state(self) -> dict[str, Any]:
        """A copy of `ctx.store` as JSON values."""
        return {key: json.loads(value) for key, value in self.snapshot.state.items()}

    def work(self) -> RunSnapshot:
        """Unfinished work items, waiters, open fan-outs, what joins hold, and the inbox."""
        return self.snapshot

    def diff(self, other: RunAt) -> list[dict[str, Any]]:
        """The changes that turn this state into the other point's state, as a JSON Patch (RFC 6902)."""
        return list(difference(self.state(), other.state()))


async def points(
    store: Store,
    run_id: str,
    *,
    step: str | None = None,
    kinds: Collection[str] | None = None,
    after: int = 0,
) -> AsyncIterator[Point]:
    """The changes of a run that are still kept, oldest first.

    Args:
        store: The deployment.
        run_id: The run.
        step: Only changes that concern this step.
        kinds: Only of these kinds.
        after: Only changes with a higher number.
    """
    reading = _Reading(run_id)
    async for entry in entries(store, run_id):
        if entry.kind == "start" and b"waits" in entry.arguments:
            reading.version = await version_at_turn(store, run_id) or 0
        point = reading.point(entry)
        if entry.seq > after and step in (None, point.step) and (kinds is None or point.kind in kinds):
            yield point


class _Reading:
    """Turns entries into points, in order."""

    def __init__(self, run_id: str) -> None:
        self._run_id, self._branch = run_id, 0
        self.version = 0

    def point(self, entry: Entry) -> Point:
        about = _about(entry)
        self.version = about.get("v", self.version)
        self._branch = about.get("branch", self._branch)
        return _point(self._run_id, entry, branch=self._branch, version=self.version)


def _about(entry: Entry) -> dict[str, Any]:
    return entry.about if isinstance(entry.about, dict) else (entry.about or [{}])[0]  # Lua: an empty table


def _point(run_id: str, entry: Entry, *, branch: int, version: int) -> Point:
    about = _about(entry)
    owner = about.get("o") or bytes(entry.arguments.get(b"owner", b"")).decode()
    return Point(
        run_id=run_id,
        seq=entry.seq,
        at=_instant(entry),
        kind=entry.kind,
        step=about.get("s") or "",
        attempt=about.get("a") or 0,
        work_id=entry.work_id or about.get("w") or "",
        worker=owner.partition("|")[0],
        outcome=about.get("out") or "",
        event=about.get("event") or "",
        branch=branch,
        state_version=version,
        bytes=entry.size,
        reused="re" in about,
        back_to=about.get("from") or 0 if entry.kind == "rewind" else 0,
    )


def _instant(entry: Entry) -> datetime:
    return datetime.fromtimestamp(entry.at / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Where:
    """Selects a point.

    Attributes:
        seq: By its number.
        step: By an outcome of this step.
        nth: Which of several matches, from 1; negative counts from the last.
        edge: Before or after the match.
        at: The last point at or before this time.
        event: By a commit that returned an event of this wire name.
    """

    seq: int | None = None
    step: str | None = None
    nth: int = 1
    edge: Edge = "after"
    at: datetime | None = None
    event: str | None = None

    @classmethod
    def of(cls, text: str) -> Where:
        """Parse `57`, `before charge` or `after charge#2`.

        Raises:
            PointNotFound: It is none of these.
        """
        if text.isascii() and text.isdigit():
            return cls(seq=int(text[:15]))
        found = _PHRASE.fullmatch(text.strip())
        if found is None:
            raise PointNotFound(
                f"{text!r} is not a point. Expected the number of a change, or 'before STEP', 'after STEP', "
                "'before STEP#2': the second outcome of that step."
            )
        edge: Edge = "before" if found[1] == "before" else "after"
        return cls(step=found[2], nth=int(found[3] or 1), edge=edge)


async def point_at(store: Store, run_id: str, where: Where) -> RunAt:
    """The run as it was at a point. *Promise:* the run is only read; see `rebuild.rebuilt`.

    Raises:
        RunNotFound: No such run, or its retention is over.
        HistoryUnavailable: The run has no such point (`PointNotFound`), or the point cannot be rebuilt.
        HistoryDamaged: The journal cannot be replayed.
    """
    await store.run(run_id)
    seq = await _seq(store, run_id, where)
    since = (await packed(store, run_id)).checkpoint_until(seq)
    past: list[Entry] = []
    async for entry in entries(store, run_id, after=min(seq_in(since), seq - 1) if since else 0):
        past.append(entry)
        if entry.seq >= seq:
            break
    if not past or past[-1].seq != seq:
        kept = await extent(store, run_id)
        raise (HistoryUnavailable if 0 < seq < kept.first else PointNotFound)(
            f"Run {run_id!r} has no point {seq}: its history is kept from {kept.first} to {kept.last}. List it with: "
            f"umbel history {run_id}"
        )
    async with rebuilt(store, run_id, past) as scratch:
        found = await rebuilt_contents(scratch)
    run = found.flat("run")
    if b"workflow" not in run:
        raise HistoryUnavailable(
            f"Run {run_id!r} had not begun at point {seq}: the state it starts from was being written. Choose a "
            "later point."
        )
    branch, version = int(run.get(b"branch", 0)), int(found.flat("versions").get(b"v", 0))
    point = _point(run_id, past[-1], branch=branch, version=version)
    lacks_state = b"queued" in run and await version_at_turn(store, run_id) is None
    return RunAt(**vars(point), snapshot=found.snapshot(), lacks_state=lacks_state)


async def _seq(store: Store, run_id: str, where: Where) -> int:
    """The number of the selected point. Reads no more of the journal than needed."""
    if where.seq is not None:
        return where.seq - (where.edge == "before")
    began = _Attempts() if where.edge == "before" else None
    chosen: list[int] = []
    async for entry in entries(store, run_id, after=await _entry_before(store, run_id, where)):
        if where.at is not None and _instant(entry) > where.at:
            break
        # Before an outcome means before its attempt began, so without its writes to the state and the like.
        number = began.before(entry) if began else entry.seq
        if _is_meant(entry, where):
            chosen.append(number)
            if where.at is None and len(chosen) == where.nth:
                break
    if where.at is not None:
        del chosen[:-1]
    index = where.nth - 1 if where.nth > 0 else where.nth
    if -len(chosen) <= index < len(chosen):
        return chosen[index]
    if where.at is not None:
        what = f"before {where.at.isoformat()}"
    elif where.event is not None:
        what = f"at which a step returned {where.event}"
    else:
        what = f"at which step {where.step!r} had an outcome"
    steps = {point.step async for point in points(store, run_id) if point.step}
    raise PointNotFound(
        f"Run {run_id!r} has {len(chosen)} points {what}; number {where.nth} was requested. Its steps so far: "
        f"{', '.join(sorted(steps)) or 'none'}. List its points with: umbel history {run_id}"
    )


async def _entry_before(store: Store, run_id: str, where: Where) -> int:
    """The number of an entry before the selected one. An `edge` of "before" needs the journal from its beginning."""
    if where.at is None or where.edge == "before":
        return 0
    kept = (await packed(store, run_id)).checkpoints
    return max((seq - 1 for seq, name in kept.items() if instant_in(name) <= where.at.timestamp() * 1000), default=0)


def _is_meant(entry: Entry, where: Where) -> bool:
    if where.at is not None:
        return True
    if where.event is not None:
        return _about(entry).get("event") == where.event
    return entry.kind == "commit" and where.step in (None, _about(entry).get("s") or "")


class _Attempts:
    """Tracks when attempts began."""

    def __init__(self) -> None:
        #: Work item -> the last change before its attempt began.
        self._began: dict[str, int] = {}

    def before(self, entry: Entry) -> int:
        """The last change before an entry, or before the attempt whose outcome it is. Call it for every entry."""
        about, found = _about(entry), entry.seq - 1
        work_id = entry.work_id or about.get("w") or ""
        if entry.kind == "claim":
            self._began[work_id] = found
        elif entry.kind == "commit":
            found = self._began.get(work_id, found)
        for group in about.get("led_to") or ():
            self._began |= dict.fromkeys(group["w"], entry.seq)
        return found


def packed_state(state: dict[str, Any]) -> dict[str, bytes]:
    """A state's JSON values in the form in which they are stored."""
    return {key: json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() for key, value in state.items()}
