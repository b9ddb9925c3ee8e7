"""A server process: `python -m served_app PORT-FILE [key=value …]`. It writes its port to the file."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvicorn

from support.flows.served import Asking, Counting, Held, Reply, Ticking
from umbel.server import WorkflowServer


async def main(port_file: Path, *options: str) -> None:
    """Serve until killed."""
    given = {name: json.loads(value) for name, _, value in (option.partition("=") for option in options)}
    server = WorkflowServer(**given)
    server.add_workflow("ticking", Ticking(timeout=None))
    server.add_workflow("counting", Counting(timeout=None))
    server.add_workflow("held", Held(timeout=None))
    server.add_workflow("asking", Asking(timeout=None), additional_events=[Reply])
    served = uvicorn.Server(server.uvicorn_config("127.0.0.1", 0, {"log_level": "warning"}))
    serving = asyncio.create_task(served.serve())
    while not served.started and not serving.done():
        await asyncio.sleep(0.01)
    [listening] = served.servers[0].sockets
    whole = port_file.with_suffix(".new")
    whole.write_text(str(listening.getsockname()[1]))
    whole.rename(port_file)
    await serving


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
