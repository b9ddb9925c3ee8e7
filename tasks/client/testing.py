"""Running a workflow in a test: from its start event to its end, with everything it published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..context.ctx import Context
from ..events.event import Event, StartEvent
from .workflow import Workflow


@dataclass(frozen=True, slots=True)
class WorkflowTestResult:
    """The result of a test run.

    Attributes:
        collected: The published events in order.
        event_types: How many events of each class were collected.
        result: The result of the run.
        ctx: The run's context as its caller sees it.
    """

    collected: list[Event]
    event_types: dict[type[Event], int]
    result: Any
    ctx: Context[Any]


class WorkflowTestRunner:
    """Runs a workflow to its end and collects what it publishes.

    It runs where `Workflow.run()` runs: in a test usually inside `with umbel.local(in_process=True):`.
    """

    def __init__(self, workflow: Workflow) -> None:
        """Args:
        workflow: The workflow to be tested.
        """
        self._workflow = workflow

    async def run(
        self,
        start_event: StartEvent | None = None,
        ctx: Context[Any] | None = None,
        expose_internal: bool = True,
        exclude_events: Collection[type[Event]] | None = None,
    ) -> WorkflowTestResult:
        """Run the workflow once.

        Args:
            start_event: By default one of the workflow's start class without fields; none with an unfinished `ctx`.
            ctx: A context to continue from, as in `Workflow.run`.
            expose_internal: Also collect step state changes, idleness and unhandled events.
            exclude_events: Classes not to collect. Only events of exactly these classes are left out, not those of
                subclasses.

        Raises:
            Exception: The run failed (this is the exception that its step raised), timed out, or was cancelled.
        """
        handler = self._workflow.run(ctx=ctx, start_event=start_event)
        excluded = frozenset(exclude_events or ())
        collected = [
            event
            async for event in handler.stream_events(expose_internal=expose_internal)
            if type(event) not in excluded
        ]
        result = await handler
        return WorkflowTestResult(collected, dict(Counter(type(event) for event in collected)), result, handler.ctx)
