"""The workflows that the HTTP tests serve."""

from __future__ import annotations

import asyncio
from typing import Any

from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from umbel.server import WorkflowServer


class Greeting(StartEvent):
    name: str = "world"


class Progress(Event):
    done: int


class Nearly(Progress):
    pass


class Asked(InputRequiredEvent):
    question: str


class Answer(HumanResponseEvent):
    text: str


class Greeted(StopEvent):
    text: str


class Greet(Workflow):
    """Says hello."""

    @step
    async def greet(self, ctx: Context, ev: Greeting) -> StopEvent:
        ctx.write_event_to_stream(Progress(done=1))
        ctx.write_event_to_stream(Nearly(done=2))
        return StopEvent(result={"hello": ev.name})


class Typed(Workflow):
    """Ends with its own stop event."""

    @step
    async def greet(self, ev: StartEvent) -> Greeted:
        return Greeted(text=f"hello {ev.get('name')}")


class Valued(StartEvent):
    value: int


class HasValue(Workflow):
    """Its start event has a field called `value`."""

    @step
    async def double(self, ev: Valued) -> StopEvent:
        return StopEvent(result=2 * ev.value)


class Count(Workflow):
    """Counts the runs that share its state."""

    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state["n"] = state.get("n", 0) + 1
        return StopEvent(result=await ctx.store.get("n"))


class Interview(Workflow):
    """Asks, and returns the answer."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, waiter_event=Asked(question="Who are you?"))
        return StopEvent(result=answer.text)


class Fails(Workflow):
    """Raises."""

    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError("boom")


class Slow(Workflow):
    """Exceeds its timeout."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"timeout": 0.3} | options))

    @step
    async def wait(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()


class Deep(Workflow):
    """Ends with a deeply nested result."""

    @step
    async def nest(self, ev: StartEvent) -> StopEvent:
        result: list[Any] = []
        for _ in range(ev.levels - 1):
            result = [result]
        return StopEvent(result=result)


#: Name -> class and additional events.
WORKFLOWS: dict[str, tuple[type[Workflow], list[type[Event]]]] = {
    "greet": (Greet, []),
    "typed": (Typed, []),
    "valued": (HasValue, []),
    "count": (Count, []),
    "interview": (Interview, [Answer]),
    "fails": (Fails, []),
    "slow": (Slow, []),
    "deep": (Deep, []),
}


def make_server(runtime: Any, **options: Any) -> WorkflowServer:
    """Return a server with all these workflows."""
    server = WorkflowServer(runtime=runtime, **options)
    for name, (workflow, additional) in WORKFLOWS.items():
        server.add_workflow(name, workflow(), additional_events=additional)
    return server
