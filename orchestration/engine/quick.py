"""Quick commits: a known decision is used again for a step that returned one event in a run without waiters.

What follows from such an outcome is the same for every event of one class at one step, except for ids and content. It
is decided once, by the same `decide` as everything else, and kept as a `Path`: the packed commands with gaps.
Most often the event goes to a single step that this process continues with. Then `hop.lua` applies the path with few
commands, or answers that the run is not as the path assumes. In that case the ordinary commit follows, which leaves
exactly the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..model.commands import Absorb, Deliver, Done, Finish, KeepEvent, Trace, where
from ..model.decide import Decision, Limits, decide
from ..model.envelope import Envelope
from ..model.plan import Plan
from ..model.waiters import Surroundings
from ..model.work_item import Outcome, Returned, Work, derive_id
from ..store.quick import Hop, hop
from ..store.replies import CarryOn
from ..store.scripts import pack
from ..store.verbs import Store
from .emitted import Emitted

#: When there are this many paths, all are dropped; a deployment has a few per step.
_MOST_PATHS = 10_000
#: Larger events are stored beside the work record.
_IN_RECORD_BYTES = 2048

_Key = tuple[str, str, int, str, tuple[str, ...], str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Path:
    """What follows when one step returns events of one class.

    Attributes:
        step: The one step that the event goes to; empty if it is gathered, or ends the run.
        level: The fan-out that gathers the event, counted from the innermost one.
        gaps: Names of the values that fill the gaps, in order.
        pieces: The packed commands around them.
        sensitive: As in `Decision`.
        where: Arguments of `hop.lua` that are always the same.
    """

    step: str
    level: int
    gaps: tuple[str, ...]
    pieces: tuple[bytes, ...]
    sensitive: bool
    where: Mapping[str, Any]

    def commands(self, filling: Mapping[str, bytes]) -> bytes:
        """The commands that `decide` would return, packed."""
        parts = [self.pieces[0]]
        for gap, piece in zip(self.gaps, self.pieces[1:], strict=True):
            parts += (filling[gap], piece)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What follows from one returned event.

    Attributes:
        path: The path it takes.
        event: What was returned.
        data: Its envelope as it is stored.
        event_id: Its identity; empty where the path has no next step.
        work_id: Id of the next work item; likewise.
        commands: What `decide` would return, packed.
    """

    path: Path
    event: Envelope
    data: bytes
    event_id: str
    work_id: str
    commands: bytes

    @property
    def decision(self) -> Decision:
        """The decision for an ordinary commit."""
        return Decision(sensitive=self.path.sensitive, packed=self.commands)


class QuickCommits:
    """The paths that a process has taken, and the commits along them."""

    def __init__(self, store: Store, limits: Limits) -> None:
        """Args:
        store: The runs.
        limits: For routing.
        """
        self._store, self._limits = store, limits
        self._keeps_commands = store.settings.history == "full"
        self._paths: dict[_Key, Path | None] = {}

    def prepared(self, work: Work, plan: Plan, outcome: Outcome, emitted: Emitted) -> Prepared | None:
        """What follows from an outcome; None where `decide` is needed."""
        if not isinstance(outcome, Returned) or outcome.event is None:
            return None
        if work.version or emitted.publishes or emitted.sends or emitted.state:
            return None
        event = outcome.event
        path = self._path(work, plan, outcome, event)
        if path is None:
            return None
        data = event.to_bytes()
        filling = {"event": pack(data)}
        event_id = work_id = ""
        if path.step:
            event_id = derive_id(work.work_id, "returned", 0)
            work_id = derive_id(work.ids_of, work.work_id, event_id, path.step)
            filling |= {"event_id": event_id.encode(), "work_id": work_id.encode()}
            filling["scope"] = _packed_scope(work.scope.path)
        elif path.level >= 0:
            filling["scope_id"] = pack(work.scope.levels()[path.level][0])
        return Prepared(path, event, data, event_id, work_id, path.commands(filling))

    async def hop(
        self, prepared: Prepared, work: Work, emitted: Emitted, entry: Mapping[str, Any], carry_on: CarryOn
    ) -> Work | None:
        """Commit and continue; None if it takes an ordinary commit, in which case nothing was written."""
        path = prepared.path
        if not path.step or path.step in carry_on.not_steps or not _is_simple(work, emitted):
            return None
        if len(prepared.data) > _IN_RECORD_BYTES:
            return None
        to = Hop(
            where=path.where,
            step=path.step,
            work_id=prepared.work_id,
            event_id=prepared.event_id,
            event=prepared.event,
            data=prepared.data,
            commands=prepared.commands if self._keeps_commands else b"",
            entry={"w": work.work_id, "s": work.step, "a": work.attempt, **entry} | self._denied(carry_on),
            claim_id=carry_on.claim_id,
        )
        return await hop(self._store, work, to)

    def _denied(self, carry_on: CarryOn) -> dict[str, Any]:
        """What the journal keeps of the offer to continue, as in an ordinary commit."""
        return {"deny": dict.fromkeys(carry_on.not_steps, 1)} if carry_on.not_steps and self._keeps_commands else {}

    def _path(self, work: Work, plan: Plan, outcome: Returned, event: Envelope) -> Path | None:
        recoveries = work.origin.packed_recoveries() if work.recoveries else ""
        around = tuple(opener for _, opener, _ in work.scope.levels()) if work.scope.path else ()
        key = plan.digest, work.step, work.slot, recoveries, around, work.event_name, event.type, event.parents
        try:
            return self._paths[key]
        except KeyError:
            if len(self._paths) >= _MOST_PATHS:
                self._paths.clear()
            path = self._paths[key] = self._found(work, plan, outcome, event)
            return path

    def _found(self, work: Work, plan: Plan, outcome: Returned, event: Envelope) -> Path | None:
        decision = decide(plan, work, outcome, Surroundings(), self._limits)
        filling = {"event": pack(event.to_bytes())}
        step, level, about = "", -1, {}
        match decision.commands:
            case [Trace() as trace, KeepEvent(uses=1, in_record=True) as kept, Deliver() as deliver, Done()]:
                filling |= {"event_id": kept.event_id.encode(), "work_id": deliver.work_id.encode()}
                filling["scope"] = _packed_scope(work.scope.path)
                step, about = deliver.step.name, where(deliver.step, deliver.queue) | self._always
                about |= {"en": deliver.event_name, "rc": deliver.recoveries, "i": trace.input}
            case [Trace(), Absorb() as absorb, Done()]:
                filling["scope_id"] = pack(absorb.scope_id)  # with its length: snapshots bring longer ids
                level = [scope_id for scope_id, _, _ in work.scope.levels()].index(absorb.scope_id)
            case [Trace(), Finish()]:
                pass
            case _:
                return None
        gaps, pieces = _around_gaps(pack([command.wire() for command in decision.commands]), filling)
        return Path(step, level, gaps, pieces, decision.sensitive, about)

    @cached_property
    def _always(self) -> dict[str, Any]:
        limits, names = self._store.limits, ("smax", "jmax", "jbytes", "full", "channels")
        kept = {name: limits[name] for name in names if limits.get(name) is not None}
        return kept | {"grace": self._store.lease_ms}


def _packed_scope(path: str) -> bytes:
    """A scope as it is in a packed command, with the field's name."""
    return pack("sc") + pack(path)


def _around_gaps(packed: bytes, filling: Mapping[str, bytes]) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """The names of the values in the packed commands, in order, and the pieces around them."""
    found = []
    for name, value in filling.items():
        at = packed.find(value)
        while at >= 0:
            found.append((at, name))
            at = packed.find(value, at + len(value))
    pieces, behind = [], 0
    for at, name in sorted(found):
        pieces.append(packed[behind:at])
        behind = at + len(filling[name])
    return tuple(name for _, name in sorted(found)), (*pieces, packed[behind:])


def _is_simple(work: Work, emitted: Emitted) -> bool:
    """Whether neither its record nor what it emitted has anything that a hop does not handle."""
    return not (
        emitted.batches
        or emitted.exchanges
        or emitted.taken
        or work.members is not None
        or work.sent_early
        or work.taken
        or work.segments
        or work.answers
        or len(work.bound) != 1
    )
