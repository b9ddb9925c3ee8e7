"""The past of a run: `/console/runs/{run_id}/history`, what it was like at a point, and going on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...orchestration.history.points import Point
from ...orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ...orchestration.model.tagged_json import untagged
from ...tasks.client.handler import WorkflowHandler
from ...tasks.client.past import PointInTime
from ..http.access import ACCESS, acts
from ..http.deployment import ServedDeployment
from ..past.requests import read_edits, refusals
from .shapes import ConsoleJSON, event_fields, shown_value

#: Points and work items in one answer, at most: the last points, the first items.
POINTS, ITEMS = 2_000, 200


def history_routes(deployment: ServedDeployment) -> list[Route]:
    """The routes about the past of a run."""
    data = _HistoryData(deployment)
    run = "/console/runs/{run_id}"
    return [
        Route(f"{run}/history", data.points, methods=["GET"], include_in_schema=False),
        Route(f"{run}/history/{{seq:int}}", data.point, methods=["GET"], include_in_schema=False),
        Route(f"{run}/fork", data.fork, methods=["POST"], include_in_schema=False),
        Route(f"{run}/rewind", data.rewind, methods=["POST"], include_in_schema=False),
    ]


class _HistoryData:
    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    @acts("read")
    async def points(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/history`: the changes that are kept, oldest first."""
        handler = await self._handler(request)
        found = [point async for point in handler.history()]
        return ConsoleJSON({"points": [_point(each) for each in found[-POINTS:]], "left_out": len(found[:-POINTS])})

    @acts("read")
    async def point(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/history/{seq}`: state and live work then; `against`: the state's difference."""
        handler = await self._handler(request)
        with refusals():
            found: PointInTime = await handler.at(request.path_params["seq"])
            against = request.query_params.get("against", "")
            other: PointInTime | None = await handler.at(int(against[:9])) if against.isdecimal() else None
        difference = None if other is None else other.diff(found)
        return ConsoleJSON(_past(found) | {"difference": difference})

    @acts("read")
    async def fork(self, request: Request) -> Response:
        """`POST /console/runs/{run_id}/fork`: another run from the point `seq`, with edits of `state` and `events`."""
        await request.scope[ACCESS].check("start", None)
        handler = await self._handler(request)
        seq, edits = _edits(await request.body())
        with refusals(409):
            made: WorkflowHandler = await handler.fork(seq, **edits)
        return ConsoleJSON({"run_id": made.run_id})

    @acts("change")
    async def rewind(self, request: Request) -> Response:
        """`POST /console/runs/{run_id}/rewind`: the run itself continues from `seq`; what is executing is stopped."""
        handler = await self._handler(request)
        seq, edits = _edits(await request.body())
        with refusals(409):
            await handler.rewind(seq, stop_running=True, **edits)
        return ConsoleJSON({"run_id": handler.run_id})

    async def _handler(self, request: Request) -> WorkflowHandler:
        try:
            record = await self._deployment.store.run(request.path_params["run_id"])
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error
        return self._deployment.runtime.handler_of(record)


def _edits(raw: bytes) -> tuple[int, dict[str, Any]]:
    body, edits = read_edits(raw)
    seq = body.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool):
        raise HTTPException(400, "'seq' is required: the number of the point")
    return seq, edits


def _point(point: Point) -> dict[str, Any]:
    return {
        "seq": point.seq,
        "at": round(point.at.timestamp() * 1000),
        "kind": point.kind,
        "step": point.step,
        "attempt": point.attempt,
        "work_id": point.work_id,
        "outcome": point.outcome,
        "event": point.event.rpartition(".")[2],
        "branch": point.branch,
        "state_version": point.state_version,
    }


def _past(found: PointInTime) -> dict[str, Any]:
    work = found.work()
    return _point(found) | {
        "status": work.status,
        "state": list(_state(work.state)),
        "items": [
            {
                "work_id": item.work_id,
                "step": item.step,
                "doing": "running" if item.running else "waiting" if item.suspended else "ready",
                "failures": item.failures,
                "events": [event_fields(event) for event in item.events[:3]],
                "is_gathering": item.fan_in is not None or len(item.events) != 1,
            }
            for item in work.items[:ITEMS]
        ],
        "items_left_out": max(0, len(work.items) - ITEMS),
        "waiters": len(work.waiters),
        "fan_outs": len(work.scopes),
    }


def _state(state: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"key": key} | shown_value(stored, partial(_stored, stored)) for key, stored in sorted(state.items()) if key
    ]


def _stored(payload: bytes) -> Any:
    return untagged(json.loads(payload))
