"""The three faces of a context (new, step, run), and the properties that describe its run and step."""

from __future__ import annotations

import warnings
from typing import Any

from ...orchestration.model.errors import ContextStateError
from ...orchestration.model.work_item import ForkedFrom, idempotency_key
from ..events.event import StartEvent
from .run_context import NewRunContext, RunContext
from .step_context import StepContext

Face = NewRunContext | StepContext | RunContext

_WHERE = {
    NewRunContext: "this context has no run yet",
    StepContext: "this is the context of a running step",
    RunContext: "this is the context of a run as its caller sees it",
}


class Faces:
    """The context of a run that has not begun, of a step, or of a run as its caller sees it."""

    _face: Face

    @property
    def store(self) -> Any:
        """The run's state, shared by all its steps: `get`, `set`, `edit_state`, `clear`.

        In an `async def` step and outside of steps its methods are awaited; in a plain `def` step they block. Before
        the run it is the initial state.
        """
        return self._face.state

    @property
    def run_id(self) -> str:
        """The run's id.

        Raises:
            ContextStateError: There is no run yet.
        """
        if isinstance(self._face, NewRunContext):
            raise self._misplaced("run_id", "It belongs to a run.")
        return self._face.run_id

    @property
    def is_running(self) -> bool:
        """Whether the run is still running; before a run, whether the snapshot contains unfinished work."""
        if isinstance(self._face, StepContext):
            warnings.warn("Context.is_running is always true in a step.", DeprecationWarning, stacklevel=2)
            return True
        return self._face.is_running

    @property
    def step_name(self) -> str:
        """The step's name."""
        return self._step("step_name").work.step

    @property
    def start_event(self) -> StartEvent:
        """The event that the run began with, as a separate copy for each access. Never blocks.

        It is kept with each run if a function in the workflow's class or module mentions `start_event`. Every claim of
        a step then carries it, so it should be small if there are many steps.

        Raises:
            WorkflowRuntimeError: It is not kept: no function there mentions it, or the run continues from a snapshot.
            ContextStateError: This is not the context of a step.
        """
        return self._step("start_event").start_event

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1: failures + losses + 1."""
        return self._step("attempt").work.attempt

    @property
    def idempotency_key(self) -> str:
        """The same in all attempts of this step execution, different in every other one: for effects outside of umbel.

        It changes when the run is rewound (`handler.rewind`), and differs in a fork unless the fork keeps the keys
        (`handler.fork(keep_idempotency_keys=True)`).
        """
        work = self._step("idempotency_key").work
        forked = ForkedFrom.of(work.options)
        if forked is not None and forked.keys and not work.branch:
            return forked.keys.replace("%s", work.work_id)
        return idempotency_key(work.run_id, work.work_id, work.branch)

    @property
    def branch(self) -> int:
        """How often the run had been rewound (`handler.rewind`) when this attempt started."""
        return self._step("branch").work.branch

    @property
    def forked_from(self) -> str | None:
        """The run that this one was forked from (`handler.fork`); None if it is not a fork."""
        forked = ForkedFrom.of(self._step("forked_from").work.options)
        return None if forked is None else forked.run_id

    def becomes(self, face: RunContext) -> None:
        """Make this the context of a run, from now on."""
        self._face = face

    def _step(self, method: str) -> StepContext:
        if isinstance(self._face, StepContext):
            return self._face
        raise self._misplaced(method, "It belongs to a running step: call it on the ctx parameter of a step.")

    def _beside(self, method: str) -> RunContext:
        if isinstance(self._face, RunContext):
            return self._face
        raise self._misplaced(method, "It belongs to a run that was started: call it on handler.ctx.")

    def _misplaced(self, method: str, advice: str) -> ContextStateError:
        run = "" if isinstance(self._face, NewRunContext) else f" (run {self.run_id!r})"
        return ContextStateError(f"Context.{method}() cannot be used here: {_WHERE[type(self._face)]}{run}. {advice}")
