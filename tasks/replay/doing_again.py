"""Replays one recorded attempt alone, in this process, and compares it with its record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from ...orchestration.engine.emitted import Emitted
from ...orchestration.engine.protocol import Engine
from ...orchestration.history.attempts import RecordedAttempt
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.plan import Plan
from ...orchestration.model.waiters import Surroundings
from ...orchestration.model.work_item import ForkedFrom, Outcome, Returned, Suspended
from ..attempt.calling import Calling, Raised
from ..attempt.failure import as_failure, error_text
from ..attempt.plain_calls import ThreadCalls
from ..attempt.running import Running
from ..attempt.step_call import CannotBind, call_step
from ..context.step_context import StepContext
from ..events.exceptions import encode_exception
from ..workflow.registry import Registered, Registry
from .comparing import Emissions, differences, emissions, shown, unmatched
from .recorded import RecordedEmissions, RecordedMemos, RecordedState, RecordedStore, StatePast

Compare = Literal["events", "result"]

#: A difference: its kind, the recorded value, the value now.
Difference = tuple[str, Any, Any]


@dataclass(frozen=True)
class Replayed:
    """The result of replaying an attempt.

    Attributes:
        differences: Between the record and now.
        reason: Why the attempt could not be compared; then there are no differences.
    """

    differences: Sequence[Difference] = ()
    reason: str = ""


@dataclass(frozen=True)
class Replaying:
    """What the attempts of one run are replayed with.

    Attributes:
        engine: Computes what follows from an outcome; nothing is written.
        plan: The run's plan.
        registered: The run's workflow in this process.
        registry: All workflows in this process.
        compare: `result` compares the outcome alone.
        threads: Threads in which plain steps are called.
    """

    engine: Engine
    plan: Plan
    registered: Registered
    registry: Registry
    compare: Compare
    threads: ThreadPoolExecutor

    async def attempt(self, recorded: RecordedAttempt) -> Replayed:
        """Replay one attempt. Side effects of the step that do not go through `ctx` do happen."""
        work, registered = recorded.work, self.registered
        reason = self._no_reason_to_try(recorded)
        if reason:
            return Replayed(reason=reason)
        store = RecordedStore(self.engine.store, recorded)
        emitting = RecordedEmissions(work, self.plan, self.engine)
        context = StepContext(work, emitting, store, store, store, registered, self.registry)
        past = StatePast(recorded)
        context.recorded_state = RecordedState(store, work.run_id, work.state_id, work, past=past)
        context.memos = RecordedMemos(work, store, recorded)
        try:
            outcome, error = await self._outcome(recorded, context, store)
        except CannotBind as unbound:
            return Replayed(reason=str(unbound))
        doubts = [f"another step wrote {key!r} to the state while it was executing" for key in sorted(past.doubts)]
        doubts += [f"the answer to collect_events in {buffer!r} is not recorded" for buffer in store.unanswered]
        if emitting.has_cancelled:
            doubts.append("it cancels other steps, and how many there were is not recorded")
        if doubts:
            return Replayed(reason="; ".join(doubts))
        publishes, sends = emitting.emitted
        follows = self.engine.decided(work, self.plan, outcome, Emitted(publishes, sends), Surroundings())
        commands = [command.wire() for command in follows.commands]
        for step, staged in follows.staged.items():
            for item in staged:
                about = {"o": "absorb", "s": step} if item.deliver is None else {"o": "keep", "e": item.event_id}
                commands.append(about | {"d": item.event.to_bytes()})
        then, now = emissions(work.work_id, recorded.commands), emissions(work.work_id, commands)
        forked = ForkedFrom.of(work.options)
        if isinstance(outcome, Suspended) and now.waits != then.waits and forked is not None and forked.recorded:
            return Replayed(reason="its answers came from the run that it was forked from, and are no longer kept")
        kind = "failed" if error else type(outcome).__name__.lower()
        found = [*_of_outcome(recorded, then, kind, error, now)]
        if self.compare == "events":
            found += _of_the_rest(recorded, then, now)
            found += (("state", *pair) for pair in _of_state(past, context))
            found += (("collected", *pair) for pair in _of_collecting(recorded.added, store.added))
        return Replayed(found)

    def _no_reason_to_try(self, recorded: RecordedAttempt) -> str:
        """Why the attempt cannot be replayed; empty if it can."""
        work = recorded.work
        if work.step not in self.registered.steps:
            return f"workflow {self.registered.name!r} has no step {work.step!r} any more"
        if recorded.is_cut:
            return "it began before what is kept of the run's history"
        if recorded.is_taken:
            return "the step was not executed: its outcome was reused from the run that it was forked from"
        if recorded.outcome == "failed" and "WorkerLost:" in recorded.error:
            return "the step was not executed: its process had died too often"
        if work.late:
            return "the step was not executed: the attempt before had ignored its time limit"
        return ""

    async def _outcome(
        self, recorded: RecordedAttempt, context: StepContext, store: RecordedStore
    ) -> tuple[Outcome, str]:
        """The outcome of the step, and the text of its failure."""
        work = recorded.work
        seconds = self.registered.steps[work.step].timeout_seconds
        running = Running(work.held)
        calling = Calling(work, running, ThreadCalls(self.threads), asyncio.get_running_loop(), seconds)
        calls = asyncio.ensure_future(call_step(work, self.registered, context, store, calling))
        error: BaseException
        try:
            return await calls, ""
        except Raised as raised:
            error = raised.error
        except Exception as raised:
            error = raised
        except asyncio.CancelledError as cancelled:
            if not calls.done() or not calls.cancelled():
                raise
            error = cancelled
        return Returned(None), error_text(encode_exception(as_failure(work, error)))


def _of_outcome(
    recorded: RecordedAttempt, then: Emissions, kind: str, error: str, now: Emissions
) -> Iterator[Difference]:
    if kind != recorded.outcome:
        yield "outcome", _summary(recorded.outcome, recorded.error, then), _summary(kind, error, now)
        return
    if error != recorded.error:
        yield "failed", recorded.error, error
    for what, before, after in (
        ("returned", then.returned, now.returned),
        ("waits", then.waits, now.waits),
        ("started", then.started, now.started),
    ):
        for pair in differences(before, after):
            yield what, *pair


def _of_the_rest(recorded: RecordedAttempt, then: Emissions, now: Emissions) -> Iterator[Difference]:
    for pair in unmatched(then.sent, now.sent):
        yield "sent", *pair
    early = [None if event is None else shown(event) for event in recorded.early]
    for index, pair in enumerate(zip_longest([*early, *then.streamed], now.streamed)):
        is_dropped = index < len(early) and early[index] is None
        if not is_dropped and pair[0] != pair[1]:
            yield "streamed", *pair


def _of_collecting(then: Mapping[str, Envelope], now: Mapping[str, Envelope]) -> Iterator[tuple[Any, Any]]:
    calls = [*dict.fromkeys([*then, *now])]
    return differences(*([shown(of[call]) if call in of else None for call in calls] for of in (then, now)))


def _of_state(past: StatePast, context: StepContext) -> Iterator[tuple[Any, Any]]:
    then, now = past.recorded, [*past.written]
    if context.writes_back:  # when it writes its changes depends on timing
        now.append(context.state_to_write)
        then, now = [_together(then)], [_together(now)]
    return differences(_values(then), _values(now))


def _together(writes: Sequence[Mapping[str, bytes | None]]) -> Mapping[str, bytes | None]:
    return {key: value for each in writes for key, value in each.items()}


def _values(writes: Sequence[Mapping[str, bytes | None]]) -> list[Any]:
    """Writes to the state as JSON values; null is a deleted key."""
    return [{key: None if raw is None else json.loads(raw) for key, raw in each.items()} for each in writes]


def _summary(kind: str, error: str, found: Emissions) -> dict[str, Any]:
    about = {"error": error} if error else {"returned": found.returned, "waits": found.waits, "started": found.started}
    return {"outcome": kind} | {name: value for name, value in about.items() if value}
