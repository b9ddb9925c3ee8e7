"""What runs publish; their handlers."""

from __future__ import annotations

import asyncio
from typing import Any

from workflows import Context, Workflow, step
from workflows.events import (
    Event,
    StartEvent,
    StopEvent,
)
from workflows.testing import WorkflowTestRunner

from .cases import A, Told, case, followed, shown
from .routing import Chain


class Telling(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A:
        for n in range(3):
            ctx.write_event_to_stream(Told(text=f"part {n}"))
        return A()

    @step
    async def end(self, ctx: Context, ev: A) -> StopEvent:
        ctx.write_event_to_stream(Told(text="the end"))
        return StopEvent(result={"a": (1, 2), "b": None})


@case
async def a_stream() -> Any:
    report = await followed(Telling().run())
    return report | {"result": str(report["result"])}


@case
async def a_stream_that_is_read_late() -> Any:
    handler = Telling().run()
    await handler
    return [shown(event) async for event in handler.stream_events()][:-1]


class Dynamic(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> StopEvent:
        event = A(n=1, extra="x")
        event["more"] = [1]
        return StopEvent(
            result=[
                event.get("extra"),
                event.get("nothing", default=3),
                sorted(event.keys()),
                "more" in event,
                len(event),
                event.to_dict(),
                ev.get("given", default=None),
                bool(Event()),
            ]
        )


@case
async def dynamic_fields() -> Any:
    return await followed(Dynamic().run(given=[1, {"a": None}]))


@case
async def events_as_text() -> Any:
    return [str(StopEvent(result=3)), repr(StopEvent(result="x")), A(n=1, x=2).model_dump(), StopEvent().result]


@case
async def a_test_runner() -> Any:
    found = await WorkflowTestRunner(Telling()).run(start_event=StartEvent())
    counted = {kind.__name__: n for kind, n in found.event_types.items() if kind in (Told, StopEvent)}
    return [counted, str(found.result)]


@case
async def a_run_id() -> Any:
    handler = Chain().run(n=1, run_id="mine-1")
    return [handler.run_id, await handler]


@case
async def several_runs_at_once() -> Any:
    flow = Chain()
    return await asyncio.gather(*(flow.run(n=n) for n in range(10)))


@case
async def a_handler_after_the_end() -> Any:
    handler = Chain().run(n=1)
    return [await handler, await handler, handler.is_done() if hasattr(handler, "is_done") else None]


class Limited(Workflow):
    running = 0
    most = 0

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        Limited.running += 1
        Limited.most = max(Limited.most, Limited.running)
        await asyncio.sleep(0.05)
        Limited.running -= 1
        return StopEvent()


@case
async def a_limit_of_concurrent_runs() -> Any:
    flow = Limited(num_concurrent_runs=2)
    await asyncio.gather(*(flow.run() for _ in range(5)))
    return Limited.most
