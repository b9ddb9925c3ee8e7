"""One work item of a run, and a drawing of the whole run: `/console/runs/{run_id}/work/{work_id}` and `…/drawing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...orchestration.history.points import Where, point_at
from ...orchestration.inspection.content.step_logs import RunLog, read_log
from ...orchestration.inspection.run_trace import past_run
from ...orchestration.inspection.work_detail import Passed, WorkDetail, read_work
from ...orchestration.model.errors import HistoryDamaged, HistoryUnavailable, RunNotFound, WorkflowRuntimeError
from ...tasks.drawing.run_picture import run_picture
from ...tasks.messages.template import task_id
from ..http.access import acts
from ..http.deployment import ServedDeployment
from .graph import drawn
from .shapes import ConsoleJSON, event_fields, execution_shape, stored_values

#: Maximum lines of a log that are shown.
LINES = 5_000
#: Maximum keys of the state that an execution has read whose values are shown.
KEYS = 200
#: Characters of a label in the unrolled drawing.
_LABEL = 32


def work_routes(deployment: ServedDeployment) -> list[Route]:
    """The routes that look into a run."""
    data = _WorkData(deployment)
    run = "/console/runs/{run_id}"
    return [
        Route(f"{run}/work/{{work_id}}", data.work, methods=["GET"], include_in_schema=False),
        Route(f"{run}/work/{{work_id}}/read", data.read, methods=["GET"], include_in_schema=False),
        Route(f"{run}/log", data.log, methods=["GET"], include_in_schema=False),
        Route(f"{run}/drawing", data.drawing, methods=["GET"], include_in_schema=False),
    ]


class _WorkData:
    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    @acts("read")
    async def work(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/work/{work_id}`: its events, attempts, what it read, wrote and led to.

        `read`: the keys of `ctx.store` that the last attempt with an outcome has read (None: all), and the number of
            the last change before it began. It is itself None if the journal does not contain them.
        """
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
    async def read(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/work/{work_id}/read`: the keys it read, with their values before it began.

        This takes as long as rebuilding that point of the run. 409 if the history does not keep the values.
        """
        run_id, work_id = request.path_params["run_id"], request.path_params["work_id"]
        store = self._deployment.store
        try:
            read = (await read_work(store, run_id, work_id)).read
            if read is None:
                raise HTTPException(409, f"The journal does not say what work item {work_id[:100]!r} has read.")
            state = (await point_at(store, run_id, Where(seq=read.before))).snapshot.state
        except (HistoryUnavailable, HistoryDamaged) as error:
            raise HTTPException(409, str(error)) from error
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error
        wanted = sorted(filter(None, state)) if read.keys is None else read.keys
        held = {key: state[key] for key in wanted[:KEYS] if key in state}
        return ConsoleJSON(
            asdict(read)
            | {
                "values": await run_in_threadpool(stored_values, held),
                "unset": [key for key in wanted if key not in state],
                "left_out": max(0, len(wanted) - KEYS),
            }
        )

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
        """`GET /console/runs/{run_id}/drawing`: each work item as a box, with coordinates."""
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
            {"at": each.at, "version": each.version, "values": _written(each.values), "deleted": each.deleted}
            for each in found.writes
        ],
        "read": found.read and asdict(found.read),
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


def _written(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return stored_values({key: stored.encode(errors="surrogateescape") for key, stored in values.items()})
