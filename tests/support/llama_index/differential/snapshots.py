"""Snapshots of runs, and the serializers that write them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from workflows import Context, Workflow, step
from workflows.context import JsonSerializer, PickleSerializer
from workflows.events import (
    Event,
    StartEvent,
    StopEvent,
)

from .cases import A, Answer, Ask, case, shown
from .definitions import refused
from .routing import Chain
from .state import Stateful


class Pausing(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A:
        await ctx.store.set("n", ev.n)
        return A(n=ev.n)

    @step
    async def ask(self, ctx: Context, ev: A) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask(question="go on?"))
        return StopEvent(result=[answer.text, ev.n, await ctx.store.get("n")])


async def paused(flow: Workflow, serializer: Any = None) -> Any:
    """Return a snapshot of a run that waits."""
    handler: Any = flow.run(n=5)
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            break
    data = handler.ctx.to_dict(serializer=serializer)
    await handler.cancel_run()
    return json.loads(json.dumps(data))


async def resumed(flow: Workflow, data: Any, serializer: Any = None) -> Any:
    """Return the result of a run that continues from a snapshot."""
    handler: Any = flow.run(ctx=Context.from_dict(flow, data, serializer=serializer))
    handler.ctx.send_event(Answer(text="yes"))
    return await handler


@case
async def a_snapshot_of_a_wait() -> Any:
    return await resumed(Pausing(), await paused(Pausing()))


@case
async def a_snapshot_with_a_pickle_serializer() -> Any:
    serializer = PickleSerializer()
    return await resumed(Pausing(), await paused(Pausing(), serializer), serializer)


@case
async def a_snapshot_of_an_ended_run_keeps_the_state() -> Any:
    flow = Stateful()
    handler: Any = flow.run()
    await handler
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    return [data["is_running"], await flow.run(ctx=Context.from_dict(flow, data))]


@case
async def a_snapshot_without_the_state() -> Any:
    flow = Stateful()
    handler: Any = flow.run()
    await handler
    data = json.loads(json.dumps(handler.ctx.to_dict(include_state=False)))
    return [bool(data["state"]), await flow.run(ctx=Context.from_dict(flow, data))]


@case
async def a_snapshot_before_the_run() -> Any:
    flow = Stateful()
    ctx: Any = Context(flow)
    await ctx.store.set("n", 41)
    data = json.loads(json.dumps(ctx.to_dict()))
    return [data["is_running"], (await flow.run(ctx=Context.from_dict(flow, data)))[2]]


@case
async def a_snapshot_that_is_damaged() -> Any:
    return [
        refused(lambda: Context.from_dict(Chain(), {"version": 99})),
        refused(lambda: Context.from_dict(Chain(), {"version": 2, "workers": 3})),
    ]


class Model(BaseModel):
    x: int
    inner: A | None = None


@case
async def a_serializer_writes_and_reads() -> Any:
    serializer = JsonSerializer()
    values = [1, "x", [1, {"a": None}], Model(x=1), A(n=2, extra=3), {"m": Model(x=2)}]
    read = [serializer.deserialize(serializer.serialize(value)) for value in values]
    return [shown(value) if isinstance(value, Event) else repr(value) for value in read]


@case
async def a_serializer_with_allowed_types() -> Any:
    serializer = JsonSerializer(allowed_types=[Model])
    text = serializer.serialize(Model(x=1))
    other = JsonSerializer(allowed_types=[])
    try:
        other.deserialize(text)
    except Exception as error:
        answered: Any = isinstance(error, ValueError)
    else:
        answered = "read"
    return [repr(serializer.deserialize(text)), answered, repr(other.with_types(Model).deserialize(text))]


class Noting(JsonSerializer):
    """Records the calls it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def serialize(self, value: Any) -> str:
        self.used.add("serialize")
        return super().serialize(value)

    def deserialize(self, value: str) -> Any:
        self.used.add("deserialize")
        return super().deserialize(value)


@case
async def a_workflow_with_a_serializer() -> Any:
    serializer = Noting()
    flow = Pausing(serializer=serializer)
    result = await resumed(flow, await paused(flow))
    return [flow.serializer is serializer, Pausing().serializer, sorted(serializer.used), result]
