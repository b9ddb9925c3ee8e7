"""A real server of the console's workflows, for a `with` block."""

from __future__ import annotations

import threading
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from support.console import flows as console_flows
from support.console.driving import Site
from support.eventually import eventually
from umbel.server import WorkflowServer
from umbel.tasks.client.runtime import Runtime


class Serving:
    """A server in its own thread, for a `with` block."""

    def __init__(self, deployment: Runtime, *, port: int = 0, below: str = "", **options: Any) -> None:
        self.server = WorkflowServer(runtime=deployment, **options)
        for name, workflow in console_flows.WORKFLOWS.items():
            self.server.add_workflow(name, workflow(timeout=None))
        config = self.server.uvicorn_config("127.0.0.1", port, {"log_level": "warning"})
        if below:
            config.app = Starlette(routes=[Mount(below, self.server.app)])
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)

    def __enter__(self) -> Site:
        self.thread.start()
        eventually(lambda: self.uvicorn.started, "the server listens")
        port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        return Site(f"http://127.0.0.1:{port}/", self.server)

    def __exit__(self, *_: object) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(20)
