"""The workflow that the server of `benchmarks.http_streams` serves: it publishes timestamped events at a given rate."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import uvicorn

from umbel import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, step
from umbel.server import WorkflowServer


class Tick(Event):
    """One published event, with the time of publishing by the machine's clock."""

    at: float
    filling: str = ""


class Go(HumanResponseEvent):
    """The signal that all readers are connected."""


class Ticking(Workflow):
    """Publishes `many` events, `pause` seconds apart; with `waits`, after a signal."""

    @step
    async def tick(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Publish all events in one step, which runs all the time."""
        if ev.get("waits"):
            await ctx.wait_for_event(Go, timeout=None)
        for _ in range(ev.many):
            ctx.write_event_to_stream(Tick(at=time.time(), filling="." * ev.get("size", 0)))
            await asyncio.sleep(ev.pause)
        return StopEvent(result=ev.many)


async def main(port_file: str) -> None:
    """Serve until killed; the port is written to the file."""
    server = WorkflowServer()
    server.add_workflow("ticking", Ticking(timeout=None))
    served = uvicorn.Server(server.uvicorn_config("127.0.0.1", 0, {"log_level": "warning", "backlog": 4096}))
    serving = asyncio.create_task(served.serve())
    while not served.started:
        await asyncio.sleep(0.01)
    Path(port_file).write_text(str(served.servers[0].sockets[0].getsockname()[1]))
    await serving


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
