"""Console data about a whole deployment: `/console/overview`, `/console/failures`, `/console/workers`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...orchestration.engine.concurrency import concurrency_limits
from ...orchestration.engine.pausing.queues import pause_queue, resume_queue
from ...orchestration.engine.pausing.workflows import pause_workflow, pauses, resume_workflow
from ...orchestration.engine.worker_directory import refused_writes, seen_workers
from ...orchestration.inspection.dead_letters import DeadRun, ParkedWork, dead_runs, parked_work
from ...orchestration.inspection.metrics import ended_lately, memory_of, read_metrics
from ...orchestration.inspection.run_list import oldest_running
from ...orchestration.inspection.run_rows import waiting_runs
from ...orchestration.sessions.names import session_of
from ...orchestration.store.verbs import Store
from ..http.access import ACCESS, Access, acts
from ..http.deployment import ServedDeployment
from .deployment_shapes import (
    failures_shape,
    limits_shape,
    overview_shape,
    parked_shape,
    problems_of,
    queues_shape,
    workers_shape,
)
from .shapes import ConsoleJSON, page_of_runs

#: Maximum failed runs, and steps of parked work, that are read; maximum running runs that the overview shows.
FAILED, OLDEST = 500, 6

Found = TypeVar("Found", DeadRun, ParkedWork)


def deployment_routes(deployment: ServedDeployment) -> list[Route]:
    """The routes that do not concern a single run."""
    data = _DeploymentData(deployment)
    return [
        Route("/console/overview", data.overview, methods=["GET"], include_in_schema=False),
        Route("/console/failures", data.failures, methods=["GET"], include_in_schema=False),
        Route("/console/workers", data.workers, methods=["GET"], include_in_schema=False),
        Route("/console/queues/{name:path}/pause", data.pause, methods=["POST"], include_in_schema=False),
        Route("/console/queues/{name:path}/resume", data.resume, methods=["POST"], include_in_schema=False),
        Route("/console/workflows/{name}/pause", data.pause_workflow, methods=["POST"], include_in_schema=False),
        Route("/console/workflows/{name}/resume", data.resume_workflow, methods=["POST"], include_in_schema=False),
    ]


class _DeploymentData:
    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    @acts("overview")
    async def overview(self, request: Request) -> Response:
        """`GET /console/overview`: figures of the deployment, current problems, the longest-running runs."""
        deployment, store = self._deployment, self._deployment.store
        metrics, workers, memory = await read_metrics(store), await seen_workers(store), await memory_of(store)
        served = {each.workflow.workflow_name: each.name for each in deployment.workflows.values()}
        unserved = [name for full, name in served.items() if not any(worker.serves(full) for worker in workers)]
        is_short = bool(unserved) or not all(worker.is_live for worker in workers) or not workers
        refused = str(await refused_writes(store) or "") if is_short else ""
        figures = overview_shape(metrics, workers, await ended_lately(store), memory, await waiting_runs(store))
        access: Access = request.scope[ACCESS]
        oldest = [run for run in await oldest_running(store, OLDEST) if await _may_read(access, run.run_id)]
        failed = await _readable(access, await dead_runs(store, limit=FAILED))
        hour = [each for each in failed if each.failed_at >= figures["ended"]["since_at"]]
        routes = deployment.routes()
        return ConsoleJSON(
            figures
            | {
                "problems": problems_of(metrics, workers, unserved, memory, refused),
                "failures": failures_shape(hour, routes),
            }
            | {"oldest": page_of_runs(oldest, None, None, routes)["runs"]}
        )

    @acts("overview")
    async def failures(self, request: Request) -> Response:
        """`GET /console/failures`: failed runs and parked work, in groups of the same cause."""
        access: Access = request.scope[ACCESS]
        store, routes = self._deployment.store, self._deployment.routes()
        failed, parked = await dead_runs(store, limit=FAILED), await parked_work(store, limit=FAILED)
        return ConsoleJSON(
            {
                "now": await self._deployment.now(),
                "failed": failures_shape(await _readable(access, failed), routes),
                "parked": parked_shape(await _readable(access, parked), routes),
                "is_partial": FAILED in (len(failed), len(parked)),
            }
        )

    @acts("overview")
    async def workers(self, _: Request) -> Response:
        """`GET /console/workers`: the workers and their load, the queues and what waits in them, the limits."""
        store = self._deployment.store
        workers, paused = await seen_workers(store), await pauses(store)
        names = dict.fromkeys(queue for each in workers for queue in (*each.queues, *each.paused))
        return ConsoleJSON(
            {
                "workers": workers_shape(workers, await _at_work(store)),
                "queues": queues_shape(await read_metrics(store), {**dict.fromkeys(names), **paused.queues}),
                "limits": limits_shape(await concurrency_limits(store), self._deployment.routes()),
                "paused_workflows": dict(paused.workflows),
            }
        )

    @acts("pause")
    async def pause(self, request: Request) -> Response:
        """`POST /console/queues/{name}/pause`: no worker takes messages from the queue."""
        await pause_queue(self._deployment.store, _name_of(request, "queue"))
        return ConsoleJSON({"status": "paused"})

    @acts("pause")
    async def resume(self, request: Request) -> Response:
        """`POST /console/queues/{name}/resume`: workers take messages from it again."""
        await resume_queue(self._deployment.store, _name_of(request, "queue"))
        return ConsoleJSON({"status": "resumed"})

    @acts("pause")
    async def pause_workflow(self, request: Request) -> Response:
        """`POST /console/workflows/{name}/pause`: no worker begins steps of the workflow."""
        await pause_workflow(self._deployment.store, _name_of(request, "workflow"))
        return ConsoleJSON({"status": "paused"})

    @acts("pause")
    async def resume_workflow(self, request: Request) -> Response:
        """`POST /console/workflows/{name}/resume`: workers begin its steps again."""
        await resume_workflow(self._deployment.store, _name_of(request, "workflow"))
        return ConsoleJSON({"status": "resumed"})


async def _at_work(store: Store) -> dict[str, int]:
    """Worker -> how many steps its processes hold, from the sets of their leases."""
    shards = range(store.settings.shards)
    owners = await store.batch(
        "look at leases", *(("ZRANGE", store.keys.in_shard(shard, "leases"), 0, -1) for shard in shards)
    )
    held = [(owner.decode(), shard) for shard, found in zip(shards, owners, strict=True) for owner in found]
    sizes = await store.batch(
        "look at leases", *(("SCARD", store.keys.in_shard(shard, f"owner:{owner}")) for owner, shard in held)
    )
    at_work: dict[str, int] = {}
    for (owner, _), size in zip(held, sizes, strict=True):
        name = owner.split("|")[0]
        at_work[name] = at_work.get(name, 0) + size
    return at_work


def _name_of(request: Request, what: str) -> str:
    name: str = request.path_params["name"]
    if len(name) > 200 or not name.isprintable():
        raise HTTPException(400, f"{name[:100]!r} is not the name of a {what}: expected up to 200 printable characters")
    return name


async def _may_read(access: Access, run_id: str) -> bool:
    return await access.allows("read", session_of(run_id))


async def _readable(access: Access, found: Iterable[Found]) -> list[Found]:
    return [each for each in found if await _may_read(access, each.run_id)]
