"""Stands in for Redis while a step is replayed: the state, memoized values and collected sets as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NoReturn

from ...orchestration.engine.cancelling.selection import Selection
from ...orchestration.engine.emitted import Sent
from ...orchestration.history.attempts import RecordedAttempt, StateWrite
from ...orchestration.model.commands import Command
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.model.work_item import Work
from ...orchestration.state.redis_hash import Change, StateHash, Written
from ...orchestration.store.verbs import Store
from ..context.emissions import Burst, Emissions
from ..context.memos import Memos


class StatePast:
    """The state as an attempt saw it: its content when the attempt began, and what was written since.

    Between two writes of its own an attempt may have read before or after a write of another step. `doubts` has the
    keys for which that makes a difference. What an edit, or a change of a value, has read is certain: nobody wrote in
    between.
    """

    def __init__(self, recorded: RecordedAttempt) -> None:
        self._work_id, self._writes = recorded.work.work_id, recorded.writes
        self._values = dict(recorded.state)
        self._passed = 0
        self._reads: list[set[str]] = []
        #: The changes by each write of the replayed attempt: key -> JSON, None for a deleted key.
        self.written: list[Mapping[str, bytes | None]] = []

    @property
    def recorded(self) -> list[Mapping[str, bytes | None]]:
        """The changes by each write of the recorded attempt."""
        return [write.after for write in self._writes if write.work_id == self._work_id]

    @property
    def doubts(self) -> set[str]:
        """Keys for which it is unknown what the recorded attempt has read."""
        return set().union(*self._reads)

    def read(self, name: str | None) -> dict[str, bytes]:
        """Read one key, or all."""
        self._reads.append({key for key in self._changed_by_others() if name in (None, key)})
        return {key: value for key, value in self._values.items() if name in (None, key)}

    def begin_edit(self) -> dict[str, bytes]:
        """All keys, as the next write of this attempt found them."""
        return self._before_next_write()

    def end_edit(self) -> None:
        """End an edit that has changed nothing: when it read is unknown."""
        self._reads.append(self._changed_by_others())

    def write(self, change: Change, expect: Mapping[str, bytes | None] | None) -> Written:
        """Write. Returns `changed` if the change was made from another value than the recorded write found."""
        found, others = self._before_next_write(), self._others()
        if expect is not None and self._reads:
            self._reads.pop()
            if found != self._values and any(found.get(key) != value for key, value in expect.items()):
                self._values, self._passed = found, self._passed + len(others)
                return "changed"
        self._values = found
        if self._passed + len(others) < len(self._writes):
            self._passed += len(others) + 1
        after: dict[str, bytes | None] = {**dict.fromkeys(change.delete), **change.set}
        if change.replace:
            after = {**dict.fromkeys(self._values), **after}
            after = {key: value for key, value in after.items() if value != self._values.get(key)}
        self._values = _applied(self._values, after)
        self.written.append(after)
        return "written"

    def _others(self) -> list[StateWrite]:
        """The writes of other steps before the next one of this attempt."""
        return [*takewhile(lambda write: write.work_id != self._work_id, self._writes[self._passed :])]

    def _changed_by_others(self) -> set[str]:
        return {key for write in self._others() for key, value in write.after.items() if value != self._values.get(key)}

    def _before_next_write(self) -> dict[str, bytes]:
        """The state as the next write of this attempt found it; after the last one, as the attempt left it."""
        others, values = self._others(), self._values
        if self._passed + len(others) == len(self._writes):
            return values
        for write in others:
            values = _applied(values, write.after)
        return values


def _applied(values: Mapping[str, bytes], after: Mapping[str, bytes | None]) -> dict[str, bytes]:
    return {key: value for key, value in {**values, **after}.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RecordedState(StateHash):
    """`ctx.store` of a replayed attempt. Reads and writes `past` instead of Redis."""

    past: StatePast = field(kw_only=True)

    @property
    def key(self) -> str:
        """Unique, so that nobody else waits for its lock."""
        return f"replayed:{id(self.past)}"

    async def read(self, name: str) -> bytes | None:
        """See `StateHash.read`."""
        return self.past.read(name).get(name)

    async def read_all(self) -> dict[str, bytes]:
        """See `StateHash.read_all`."""
        return self.past.read(None)

    async def lock(self, token: str, *, reserve: bool = False) -> dict[str, bytes]:
        """See `StateHash.lock`."""
        self._refuse_if_read_only()
        return self.past.begin_edit()

    async def renew(self, token: str) -> bool:
        """See `StateHash.renew`."""
        return True

    async def unlock(self, token: str) -> None:
        """See `StateHash.unlock`."""
        self.past.end_edit()

    async def write(
        self,
        change: Change,
        *,
        lock: str | None = None,
        expect: Mapping[str, bytes | None] | None = None,
        reserve: bool = False,
    ) -> Written:
        """See `StateHash.write`."""
        self._refuse_if_read_only()
        written = self.past.write(change, expect)
        if written == "written":
            self.confirmed.append(None)
        return written


class RecordedMemos(Memos):
    """`ctx.once` of a replayed attempt: recorded values are not computed again, others are."""

    def __init__(self, work: Work, store: Store, recorded: RecordedAttempt) -> None:
        """Args: as `Memos`, and the attempt."""
        super().__init__(work, store, [])
        self._recorded, self._may_have_some = recorded.memos, True

    async def _recall(self, key: str) -> bytes | None:
        return self._recorded.get(key)

    async def _keep(self, key: str, value: bytes) -> bytes:
        return value


class RecordedEmissions(Emissions):
    """The buffer of a replayed attempt. It is never flushed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, lost=lambda _: None, notify=lambda _: None, **options)
        #: Whether the step cancelled others: how many it found is not recorded.
        self.has_cancelled = False

    @property
    def emitted(self) -> tuple[Sequence[Command], Sequence[Sent]]:
        """What was published and sent."""
        return self._publishes, self._sends

    def cancel_work(self, selection: Selection, **about: Any) -> int:
        """Cancels nothing."""
        self.has_cancelled = True
        return 0

    def _begun_burst(self) -> Burst:
        self._burst = self._burst or Burst(0)
        return self._burst


class RecordedStore(Store):
    """The store as a replayed step sees it: the recorded answers of `collect_events`."""

    def __init__(self, store: Store, recorded: RecordedAttempt) -> None:
        """Args:
        store: Provides the loop that plain steps wait for, and the settings.
        recorded: The attempt.
        """
        super().__init__(store.connection, store.settings)
        self._answers = recorded.answers
        #: Name of each call -> the event that it added.
        self.added: dict[str, Envelope] = {}
        #: Calls without a recorded answer.
        self.unanswered: list[str] = []

    async def collect(
        self,
        work: Work,
        *,
        buffer: str,
        call: str,
        event: Envelope,
        expected: Sequence[tuple[str, int, str]],
        taken: str,
        within_seconds: float | None = None,
    ) -> Sequence[Envelope] | None:
        """See `Store.collect`."""
        self.added[call] = event
        if call not in self._answers and event.type in {name for name, _, _ in expected}:
            self.unanswered.append(buffer)
        return self._answers.get(call)

    async def command(self, what: str, *command: Any, name: str = "") -> NoReturn:
        """Refused: a replay neither reads nor writes the run."""
        raise WorkflowRuntimeError(f"A step that is replayed cannot {what}: the journal does not record it.")

    async def verb(self, verb: str, run_id: str, keys: dict[str, str] | None = None, /, **args: Any) -> NoReturn:
        """Refused, as `command`."""
        raise WorkflowRuntimeError(f"A step that is replayed cannot call {verb!r}: the journal does not record it.")
