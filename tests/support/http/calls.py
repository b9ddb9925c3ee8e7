"""Calls to a workflow server with which many tests begin."""

from __future__ import annotations

from typing import Any

import httpx
from llama_agents.client import WorkflowClient


async def run(http: httpx.AsyncClient, name: str, **body: Any) -> dict[str, Any]:
    """Start a run and wait for its result."""
    answer: dict[str, Any] = (await http.post(f"/workflows/{name}/run", json=body)).json()
    return answer


async def asked(client: WorkflowClient, name: str = "interview", **options: Any) -> str:
    """Start a run, wait until it waits for its answer, and return its handler id."""
    handler = await client.run_workflow_nowait(name, **options)
    async for event in client.get_workflow_events(handler.handler_id):
        if event.type == "Ask":
            return str(handler.handler_id)
    raise AssertionError("it ended without having asked")
