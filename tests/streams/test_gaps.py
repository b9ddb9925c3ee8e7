"""Events that were trimmed before they were read: the stream reports the gap, and the reader continues."""

from __future__ import annotations

import asyncio
from typing import Any

from umbel import Context, Event, StartEvent, StopEvent, UnreadableEvent, Workflow, attach, step


class Burst(Workflow):
    @step
    async def publish(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for number in range(ev.count):
            ctx.write_event_to_stream(Event(number=number))
        return StopEvent()


async def _burst(runtime: Any) -> Any:
    most = runtime.settings.stream_max_events
    handler = Burst(timeout=120).run(count=most + 2000)
    await handler
    return handler


async def test_a_late_reader_of_a_burst_is_told_what_it_missed(runtime: Any) -> None:
    handler = await _burst(runtime)

    events = [event async for event in attach(handler.run_id).stream_events()]

    gaps = [event for event in events if isinstance(event, UnreadableEvent)]
    assert len(gaps) == 1
    assert events.index(gaps[0]) == 0
    assert "left the log before they were read" in gaps[0].reason
    assert isinstance(events[-1], StopEvent)
    numbers = [event["number"] for event in events[1:-1]]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))

    def blocking() -> list[Event]:
        return list(attach(handler.run_id).events())

    again = await asyncio.to_thread(blocking)
    assert isinstance(again[0], UnreadableEvent)
    assert len(again) == len(events)
    assert not [event async for event in attach(handler.run_id).stream_events(types=[UnreadableEvent, StopEvent])][1:-1]
