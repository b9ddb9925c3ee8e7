"""One work item of a run, and the whole run unrolled: `/console/runs/{run_id}/work/{work_id}` and `…/drawing`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...orchestration.inspection.content.step_logs import RunLog, read_log
from ...orchestration.inspection.run_trace import past_run
from ...orchestration.inspection.work_detail import Passed, WorkDetail, read_work
from ...orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ...orchestration.model.tagged_json import untagged
from ...tasks.drawing.run_picture import run_picture
from ...tasks.messages.template import task_id
from ..http.access import acts
from ..http.deployment import ServedDeployment
from .graph import drawn
from .shapes import ConsoleJSON, event_fields, execution_shape, shown_value

#: Lines of a log that are shown.
LINES = 5_000
#: Characters of a label in the unrolled drawing.
_LABEL = 32


def work_routes(deployment: ServedDeployment) -> list[Route]:
    """The routes that look into a run."""
    data = _WorkData(deployment)
    run = "/console/runs/{run_id}"
    return [
        Route(f"{run}/work/{{work_id}}", data.work, methods=["GET"], include_in_schema=False),
        Route(f"{run}/log", data.log, methods=["GET"], include_in_schema=False),
        Route(f"{run}/drawing", data.drawing, methods=["GET"], include_in_schema=False),
    ]


class _WorkData:
    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    @acts("read")
    async def work(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/work/{work_id}`: its events, attempts, writes, and what it led to."""
        run_id, work_id = request.path_params["run_id"], request.path_params["work_id"]
        try:
            found = await read_work(self._deployment.store, run_id, work_id)
            log = await read_log(self._deployment.store, run_id, work_id=work_id)
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error
        flower_url = self._deployment.store.settings.flower_url
        shape = await run_in_threadpool(_work_shape, found, flower_url)
        return ConsoleJSON(shape | {"log": log_shape(log)})

    @acts("read")
    async def log(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/log`: what its steps have logged."""
        try:
            log = await read_log(self._deployment.store, request.path_params["run_id"])
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error
        return ConsoleJSON(await run_in_threadpool(log_shape, log))

    @acts("read")
    async def drawing(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/drawing`: each work item a box, with coordinates."""
        try:
            run = await past_run(self._deployment.store, request.path_params["run_id"])
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error
        picture = await run_in_threadpool(run_picture, run, _LABEL)
        return ConsoleJSON(await run_in_threadpool(drawn, picture, {}) | {"remarks": list(picture.remarks)})


def log_shape(log: RunLog) -> dict[str, Any]:
    """The newest lines, in order."""
    shown = log.lines[-LINES:]
    return {
        "lines": [asdict(line) for line in shown],
        "is_cut": log.is_cut,
        "left_out": len(log.lines) - len(shown),
    }


def _work_shape(found: WorkDetail, flower_url: str | None) -> dict[str, Any]:
    return {
        "work_id": found.work_id,
        "ready_at": found.ready_at,
        "executions": [
            execution_shape(each) | {"task_url": _task_url(found, each.attempt, flower_url)}
            for each in found.executions
        ],
        "given": list(map(_passed, found.given)),
        "emitted": list(map(_passed, found.emitted)),
        "writes": [
            {"at": each.at, "version": each.version, "values": list(_values(each.values)), "deleted": each.deleted}
            for each in found.writes
        ],
        "left_out": found.left_out,
    }


def _task_url(found: WorkDetail, attempt: int, flower_url: str | None) -> str | None:
    """Where Flower shows the Celery task of an attempt; None if Flower's address or the task's id is not known."""
    dispatch = found.dispatches.get(attempt)
    if flower_url is None or dispatch is None:
        return None
    return f"{flower_url.rstrip('/')}/task/{quote(task_id(found.work_id, dispatch), safe='')}"


def _passed(each: Passed) -> dict[str, Any]:
    return {
        "type": each.name.rpartition(".")[2],
        "event": event_fields(each.event),
        "links": [{"work_id": link.work_id, "step": link.step} for link in each.links],
        "is_published": each.is_published,
    }


def _values(values: dict[str, str]) -> Iterable[dict[str, Any]]:
    for key, stored in values.items():
        if key:  # the empty key names the state's class
            payload = stored.encode(errors="surrogateescape")
            yield {"key": key} | shown_value(payload, partial(_stored, payload))


def _stored(payload: bytes) -> Any:
    return untagged(json.loads(payload))
