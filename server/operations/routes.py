"""Readiness and metrics for operators. `/health` is part of the protocol."""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...orchestration.engine.worker_directory import refused_writes, seen_workers
from ...orchestration.inspection.metrics import read_metrics
from ...orchestration.model.errors import UmbelError
from ...orchestration.store.verbs import Store
from ...tasks.messages.quarantine_counts import quarantine_counts
from ..http.access import acts
from ..http.deployment import ServedDeployment
from .prometheus import CONTENT_TYPE, exposition

logger = logging.getLogger("umbel.server")

#: How long `/ready` waits for Redis. Probes have a timeout too, often one second.
READY_TIMEOUT_SECONDS = 0.8
#: How long `/metrics` waits for Redis, and before that for the broker. A scrape often has ten seconds.
METRICS_SECONDS, BROKER_SECONDS = 3.0, 1.0


def operation_routes(deployment: ServedDeployment) -> list[Route]:
    """The routes for operators."""
    endpoints = OperationEndpoints(deployment)
    return [
        Route("/ready", endpoints.ready, methods=["GET"]),
        Route("/metrics", endpoints.metrics, methods=["GET"]),
    ]


class OperationEndpoints:
    """`/ready` and `/metrics`."""

    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    @acts("ready")
    async def ready(self, _: Request) -> Response:
        """`GET /ready`: 200 if Redis answers and every served workflow has a live worker, else 503 and why.

        If Redis takes no writes, workers cannot announce themselves, and this is what is reported of them.
        """
        problems = await self._problems()
        status = "ready" if not problems else "not ready"
        return JSONResponse({"status": status, "problems": problems}, 503 if problems else 200)

    async def _problems(self) -> list[str]:
        if self._deployment.is_stopped:
            return ["This server was stopped."]
        try:
            store = self._deployment.store
            quick_store = Store(store.connection, store.settings, patience_seconds=READY_TIMEOUT_SECONDS)
            # The store's patience covers an outage. A connection that is open but silent would be waited for longer.
            async with asyncio.timeout(READY_TIMEOUT_SECONDS + 0.1):
                workers = await seen_workers(quick_store)
                unserved = [
                    f"No live worker serves {name!r} ({served.workflow.workflow_name}): start one with `umbel worker`."
                    for name, served in self._deployment.workflows.items()
                    if not any(worker.serves(served.workflow.workflow_name) for worker in workers)
                ]
                if unserved and (refused := await refused_writes(quick_store)) is not None:
                    return [str(refused)]
                return unserved
        except UmbelError as error:
            return [str(error)]
        except TimeoutError:
            return [f"Redis did not answer within {READY_TIMEOUT_SECONDS:g} s."]

    @acts("metrics")
    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`: metrics of the whole deployment, the same from every server.

        503 if Redis does not answer within `METRICS_SECONDS`; without quarantine counts if the broker does not.
        """
        runtime = self._deployment.runtime
        try:
            # Not in Starlette's threads: those are waited for even after the timeout.
            counting = asyncio.to_thread(quarantine_counts, runtime.app)
            quarantined = await asyncio.wait_for(counting, BROKER_SECONDS)
        except (RedisError, OSError, UmbelError) as error:  # a TimeoutError is an OSError
            logger.warning(
                "quarantine counts missing from metrics: %s",
                error or "the broker did not answer",
                extra={"action": "metrics_incomplete"},
            )
            quarantined = {}
        try:
            async with asyncio.timeout(METRICS_SECONDS):
                found, workers = await read_metrics(runtime.store), await seen_workers(runtime.store)
        except TimeoutError as error:
            raise HTTPException(503, f"Redis did not answer within {METRICS_SECONDS:g} s.") from error
        page = exposition(found, workers, quarantined, self._deployment.readers)
        return Response(page, headers={"content-type": CONTENT_TYPE})
