"""Workflows whose steps record how Celery sees them. Unlike in `continuation`, no Celery signal receiver listens."""

from __future__ import annotations

from typing import Any

from celery import current_task
from celery.worker import state as worker_state

from support.flows.everyday import Broken, effect, hold_on_loop
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


def way() -> str:
    """Return how the message of the current step reached the pool."""
    request = worker_state.requests[current_task.request.id]
    return "direct" if type(request).__name__ == "DirectRequest" else "ordinary"


class Looks(Workflow):
    """Records what the step sees of its Celery task, then waits at its gate."""

    @step
    async def look(self, ctx: Context, ev: StartEvent) -> StopEvent:
        request = current_task.request
        fields: dict[str, Any] = {name: value for name, value in vars(request).items() if name != "properties"}
        effect("looks", ctx, way=way(), task=current_task.name, fields=fields, shown=repr(request)[:9])
        await hold_on_loop(ctx.run_id)
        effect("looked", ctx)
        return StopEvent(result=request.id)


class Holds(Workflow):
    """Waits at its gate without looking at its Celery task."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("holds", ctx)
        await hold_on_loop(ctx.run_id)
        effect("held", ctx)
        return StopEvent(result=1)


class Passes(Workflow):
    """Ends at once and returns how its message reached the pool."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=way())


class Breaks(Workflow):
    """Fails."""

    @step
    async def fail(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise Broken(way())


class Mid(Event):
    pass


class TwoSteps(Workflow):
    """The second step continues on the same worker and records its Celery task."""

    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Mid:
        return Mid()

    @step
    async def two(self, ctx: Context, ev: Mid) -> StopEvent:
        request = current_task.request
        seen = [request.id, list(request.args), request.kwargs, request.root_id, request.headers, request.hostname]
        return StopEvent(result=[*seen, request.called_directly, type(request).__name__])
