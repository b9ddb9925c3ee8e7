"""`Workflow`: the class that users derive from. Its definition half is in `definition.py`; running it is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, overload

from ...orchestration.model.commands import WhenBusy
from ...orchestration.model.errors import RunExists, WorkflowRuntimeError
from ..context.children import ChildRun
from ..context.ctx import Context
from ..events.event import StartEvent
from ..workflow.definition import WorkflowDefinition
from ..workflow.start_events import start_event_for
from .handler import ResultT, WorkflowHandler
from .runtime import Runtime, current_runtime


class _Start:
    """`flow.start(x=1)` starts a run; `Flow.start(x=1)`, on the class, describes a child run for `ctx.run_all`."""

    @overload
    def __get__(self, workflow: None, cls: type[Workflow]) -> Callable[..., ChildRun]: ...
    @overload
    def __get__(self, workflow: Workflow, cls: type[Workflow]) -> Callable[..., WorkflowHandler]: ...
    def __get__(
        self, workflow: Workflow | None, cls: type[Workflow]
    ) -> Callable[..., ChildRun] | Callable[..., WorkflowHandler]:
        def start_run(
            start_event: StartEvent | None = None, *, run_id: str | None = None, **kwargs: Any
        ) -> WorkflowHandler:
            """The same as `run()`, under a name for use without an event loop: `flow.start(x=1).result()`."""
            assert workflow is not None
            return workflow.run(start_event=start_event, run_id=run_id, **kwargs)

        def child_run(start_event: StartEvent | None = None, **fields: Any) -> ChildRun:
            """A child run to start, with the defaults of the class."""
            return ChildRun(cls(), start_event, fields)

        return child_run if workflow is None else start_run


class Workflow(WorkflowDefinition, Generic[ResultT]):
    """A process made of steps that exchange events.

    `class Flow(Workflow[Report])` gives type checkers the result type of its runs, so that `await Flow().run()` is a
    `Report`: the class of its stop event, or the type of the `result` of a plain `StopEvent`.

    Steps are methods decorated with `@step`, and free functions registered with `@step(workflow=...)`. Inherited
    methods count, and a subclass may override them; free functions belong only to the class that they name.

    The `self` of a step is the instance of the worker that executes it, which may differ from the one on which a client
    called `run()`: the timeout, limits and verbosity given here travel with the run, other attributes do not.

    An ended run is kept for UMBEL_RETENTION_SECONDS, unless its workflow sets its own retention as a `timedelta` or in
    seconds: `class Flow(Workflow, retention=timedelta(days=30))`, or `with_options(retention=…)` for one instance.

    Args:
        timeout: Seconds a run may take from its start; None is no limit. By default the class's timeout, as in
            `class Flow(Workflow, timeout=600)`; else 45 seconds, or no limit if a step asks people, takes their
            answers or calls `wait_for_event`.
        disable_validation: Do not check the steps before a run. `@catch_error` handlers work nevertheless.
        verbose: Print what the steps do.
        resource_manager: Where resources are kept; by default each instance has its own.
        num_concurrent_runs: How many runs of this workflow execute at a time, in the whole deployment; further runs
            wait in the order of their starts, and their timeout counts from when they begin. The most recently given
            limit applies. None is no limit.
        runtime: What executes the runs; by default the runtime that umbel is configured with.
        workflow_name: The name under which runs are stored; by default the class's module and qualified name.
        skip_graph_checks: Graph checks to leave out: "reachability", "terminal_event", "dead_end".
        serializer: The default for `Context.to_dict` and `from_dict`; None is JSON. Events between steps are always
            JSON.

    Raises:
        WorkflowConfigurationError: The steps do not have exactly one StartEvent and one StopEvent class.
        WorkflowValidationError: An argument is invalid.
    """

    @property
    def runtime(self) -> Runtime:
        """What executes the runs.

        Raises:
            NotConfigured: No Redis URL is configured.
        """
        return self._runtime if self._runtime is not None else current_runtime()

    def run(
        self,
        ctx: Context[Any] | None = None,
        start_event: StartEvent | None = None,
        *,
        run_id: str | None = None,
        session: str | None = None,
        when_busy: WhenBusy | None = None,
        if_exists: Literal["error", "attach"] | None = None,
        **kwargs: Any,
    ) -> WorkflowHandler[ResultT]:
        """Start a run and return its handler at once; await the handler for the result.

        Works with and without a running event loop; without one use the handler's blocking methods.

        Args:
            ctx: What to begin with: `Context(workflow)` with an initial state, `Context.from_dict(…)`, or the context
                of a run that has ended. The run is a new one with a copy of that state. If the context holds
                unfinished work and neither `start_event` nor keyword arguments are given, the run continues that work
                with the rest of its timeout; otherwise the work is dropped with a warning, and the run processes the
                new input. Afterwards `ctx` is the context of the new run.
            start_event: The start event; by default it is made from the keyword arguments.
            run_id: Custom run id; by default an unguessable one.
            session: The session to which the run belongs: see `Session.run`. If the start event declares a field
                `session`, the argument is that field instead.
            when_busy: What to do while another run of the session is running, by default "queue". Without a session
                it is a field of the start event.
            if_exists: With `run_id`, if there is such a run already: "error", or "attach" to return its handler,
                whatever its input was. *Promise:* of any number of calls with one id, one starts a run. Without
                `run_id` it is a field of the start event.
            **kwargs: Fields of the start event.

        Raises:
            WorkflowValidationError: The steps do not fit together.
            WorkflowRuntimeError: The start event cannot be made from the arguments; the session name is invalid;
                `run_id` or `ctx` is given together with a session.
            SessionBusy, SessionFull, SessionClosed: The session does not accept the run.
            ContextStateError: `ctx` belongs to a step or to a run that is still running.
            ContextSerdeError: `ctx` holds unfinished work of another workflow.
            RunExists: `run_id` is in use; with "attach", by a run of another workflow.
            NotConfigured, StoreUnavailable: There is no Redis to run on.
        """
        if session is not None and "session" in self.start_event_class.model_fields:
            kwargs["session"], session = session, None
        if session is None and when_busy is not None:
            kwargs["when_busy"] = when_busy
        if session is not None and (run_id is not None or ctx is not None):
            raise WorkflowRuntimeError(
                f"run(session={session!r}) of {self.workflow_name!r} was also given a run_id or a ctx. Runs of a "
                "session get their ids and their state from it: leave the others out."
            )
        if if_exists is not None and run_id is None:
            kwargs["if_exists"], if_exists = if_exists, None
        WorkflowDefinition.ensure_valid(self)
        has_new_input = start_event is not None or bool(kwargs)
        beginning = None if ctx is None else ctx.beginning_of_run(self, has_new_input=has_new_input)
        goes_on = beginning is not None and beginning.goes_on
        event = None if goes_on else start_event_for(self, start_event, kwargs)
        try:
            handler = self.runtime.start(
                self,
                event,
                begin_with=None if beginning is None else beginning.snapshot,
                run_id=run_id,
                session=session,
                when_busy=when_busy or "queue",
                **WorkflowDefinition.run_arguments(self),
            )
        except RunExists:
            if if_exists != "attach" or run_id is None:
                raise
            handler = self.runtime.attach_to(self, run_id)
        if ctx is not None:
            handler.give_context(ctx)
        self._has_begun(handler, event)
        return handler

    def _has_begun(self, handler: WorkflowHandler[Any], event: StartEvent | None) -> None:
        """A hook for subclasses that track their runs."""

    start = _Start()
