"""Quick commits: a step has returned one event for one step, and its process goes on with that. Most work is like this.

What follows from such an outcome is the same for every event of one class at one step, except for ids and content. So
it is decided once, by the `decide` that decides everything, and kept as a `Path`: the packed commands with gaps.
`hop.lua` applies it with few commands, or answers that the run is not as the path supposes; then the ordinary commit
follows, which leaves exactly the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..model.commands import Deliver, Done, KeepEvent, Trace, where
from ..model.decide import Limits, decide
from ..model.envelope import Envelope
from ..model.plan import Plan
from ..model.work_item import Returned, Surroundings, Work, derive_id
from ..store.quick import Hop, hop
from ..store.replies import CarryOn
from ..store.scripts import pack
from ..store.verbs import Store
from .emitted import Emitted

#: Above this many paths all are forgotten; a deployment has a few per step.
_MOST_PATHS = 10_000
#: Larger events are stored beside the work record.
_IN_RECORD_BYTES = 2048

_Key = tuple[str, str, int, str, str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Path:
    """From one step by the events of one class to another step.

    Attributes:
        step: Name of the step at its end.
        pieces: The packed commands around the gaps: event id, event, next work id, event id, scope.
        where: Arguments of `hop.lua` that are always the same.
    """

    step: str
    pieces: tuple[bytes, ...]
    where: Mapping[str, Any]

    def commands(self, event_id: str, event: bytes, work_id: str, scope: str) -> bytes:
        """The commands that `decide` would give, packed."""
        first, second, third, fourth, fifth, last = self.pieces
        named = event_id.encode()
        return b"".join(
            (
                first,
                named,
                second,
                pack(event),
                third,
                work_id.encode(),
                fourth,
                named,
                fifth,
                _packed_scope(scope),
                last,
            )
        )


class QuickCommits:
    """The paths that a process has taken, and the commits along them."""

    def __init__(self, store: Store, limits: Limits) -> None:
        """Args:
        store: The runs.
        limits: For routing.
        """
        self._store, self._limits = store, limits
        self._paths: dict[_Key, Path | None] = {}

    async def commit(
        self,
        work: Work,
        plan: Plan,
        returned: Returned,
        emitted: Emitted,
        *,
        entry: Mapping[str, Any],
        carry_on: CarryOn,
    ) -> Work | None:
        """Commit and go on; None when it takes an ordinary commit, and nothing was written."""
        event = returned.event
        if event is None or not _is_simple(work) or _says_more(emitted):
            return None
        path = self._path(work, plan, event)
        if path is None or path.step in carry_on.not_steps or len(event.payload) > _IN_RECORD_BYTES:
            return None
        packed = event.to_bytes()
        if len(packed) > _IN_RECORD_BYTES:
            return None
        event_id = derive_id(work.work_id, "returned", 0)
        work_id = derive_id(work.run_id, work.work_id, event_id, path.step)
        about = {"w": work.work_id, "s": work.step, "a": work.attempt, **entry}
        commands = path.commands(event_id, packed, work_id, work.scope.path)
        to = Hop(path.where, path.step, work_id, event_id, event, commands, about, carry_on.claim_id)
        return await hop(self._store, work, to)

    def _path(self, work: Work, plan: Plan, event: Envelope) -> Path | None:
        recoveries = work.origin.packed_recoveries() if work.recoveries else ""
        key = plan.digest, work.step, work.slot, recoveries, work.event_name, event.type, event.parents
        try:
            return self._paths[key]
        except KeyError:
            if len(self._paths) >= _MOST_PATHS:
                self._paths.clear()
            path = self._paths[key] = self._found(work, plan, event)
            return path

    def _found(self, work: Work, plan: Plan, event: Envelope) -> Path | None:
        match decide(plan, work, Returned(event), Surroundings(), self._limits).commands:
            case [
                Trace() as trace,
                KeepEvent(uses=1, in_record=True) as kept,
                Deliver() as deliver,
                Done(),
            ] as commands:
                pass
            case _:
                return None
        packed = pack([command.wire() for command in commands])
        scope = _packed_scope(work.scope.path)
        gaps = kept.event_id, pack(kept.event.to_bytes()), deliver.work_id, kept.event_id, scope
        pieces = []
        for gap in gaps:
            data = gap.encode() if isinstance(gap, str) else gap
            before, found, packed = packed.partition(data)
            if not found:
                raise AssertionError(f"commands are packed in another order than Path.commands fills in: {commands}")
            pieces.append(before)
        about = where(deliver.step, deliver.queue) | self._always
        about |= {"en": deliver.event_name, "rc": deliver.recoveries, "i": trace.input, "wf": plan.workflow}
        return Path(deliver.step.name, (*pieces, packed), about)

    @cached_property
    def _always(self) -> dict[str, Any]:
        limits = self._store.limits
        return {name: limits[name] for name in ("smax", "jmax", "jbytes", "full") if limits.get(name) is not None} | {
            "grace": self._store.lease_ms
        }


def _says_more(emitted: Emitted) -> bool:
    return bool(emitted.publishes or emitted.sends or emitted.batches or emitted.exchanges or emitted.taken)


def _packed_scope(path: str) -> bytes:
    """As it is in a packed command, with the field's name."""
    return pack("sc") + pack(path)


def _is_simple(work: Work) -> bool:
    """Whether its record has nothing that a hop leaves alone."""
    return not (
        work.version
        or work.members is not None
        or work.sent_early
        or work.taken
        or work.segments
        or len(work.bound) != 1
    )
