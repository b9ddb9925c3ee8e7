"""A server on a real socket, on the session's deployment, and the published client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from umbel.server import WorkflowServer


class Named(StartEvent):
    name: str = "world"


class Valued(StartEvent):
    value: int


class Progress(Event):
    done: int


class Nearly(Progress):
    pass


class Ask(InputRequiredEvent):
    question: str


class Ans(HumanResponseEvent):
    text: str


class Greeted(StopEvent):
    text: str


class Greet(Workflow):
    @step
    async def greet(self, ctx: Context, ev: Named) -> StopEvent:
        ctx.write_event_to_stream(Progress(done=1))
        ctx.write_event_to_stream(Nearly(done=2))
        return StopEvent(result={"hello": ev.name})


class Typed(Workflow):
    @step
    async def greet(self, ev: Named) -> Greeted:
        return Greeted(text=f"hello {ev.name}")


class Double(Workflow):
    @step
    async def double(self, ev: Valued) -> StopEvent:
        return StopEvent(result=2 * ev.value)


class Count(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state["n"] = state.get("n", 0) + 1
        return StopEvent(result=await ctx.store.get("n"))


class Interview(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(Ans, waiter_event=Ask(question="Who are you?"))
        return StopEvent(result=answer.text)


class Open(Workflow):
    """Waits for an event that appears neither in its signature nor in `additional_events`."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=(await ctx.wait_for_event(Ans, waiter_event=Ask(question="?"))).text)


class Fails(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError("boom")


class Slow(Workflow):
    @step
    async def wait(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()


def make_server(runtime: Any, **options: Any) -> WorkflowServer:
    """Return a server with all these workflows."""
    server = WorkflowServer(runtime=runtime, **options)
    server.add_workflow("greet", Greet())
    server.add_workflow("typed", Typed())
    server.add_workflow("double", Double())
    server.add_workflow("count", Count())
    server.add_workflow("interview", Interview(timeout=None), additional_events=[Ans])
    server.add_workflow("open", Open(timeout=None))
    server.add_workflow("fails", Fails())
    server.add_workflow("slow", Slow(timeout=0.2))
    return server


@contextmanager
def listening(server: WorkflowServer) -> Iterator[str]:
    """Serve on a free port, in a thread; yields the URL."""
    served = uvicorn.Server(server.uvicorn_config("127.0.0.1", 0, {"log_level": "warning"}))
    started = threading.Event()

    async def serve() -> None:
        task = asyncio.create_task(served.serve())
        while not served.started and not task.done():
            await asyncio.sleep(0.005)
        started.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(20)
    port = served.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        served.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
