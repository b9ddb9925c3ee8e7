"""What several tests read from a run's stream."""

from __future__ import annotations

from typing import Any

from umbel import attach
from umbel.events import WorkflowIdleEvent
from umbel.handler import WorkflowHandler


async def idle(handler: WorkflowHandler) -> None:
    """Wait until no step of the run is executing."""
    async for event in handler.stream_events(expose_internal=True):
        if isinstance(event, WorkflowIdleEvent):
            return


async def events_of(handler: WorkflowHandler, cls: type[Any]) -> list[Any]:
    """Return all events of a class in the stream of the ended run, including umbel's own."""
    return [event async for event in handler.stream_events(expose_internal=True) if type(event) is cls]


async def published(handler: WorkflowHandler, cls: type[Any], times: int = 1) -> list[Any]:
    """Return the first `times` events of a class that the run publishes; the position of `handler` does not change."""
    found: list[Any] = []
    async for event in attach(handler.run_id).stream_events(types=[cls]):
        found.append(event)
        if len(found) == times:
            return found
    raise AssertionError(f"the run ended after {len(found)} {cls.__name__}")
