"""The past of a run: `/console/runs/{run_id}/history`, the run at a point, and continuing from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...orchestration.history.forks.family import family
from ...orchestration.history.json_patch import value_at
from ...orchestration.history.points import Point
from ...orchestration.inspection.run_rows import read_rows
from ...orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ...orchestration.sessions.names import session_of
from ...tasks.client.handler import WorkflowHandler
from ...tasks.client.past import PointInTime
from ..http.access import ACCESS, Access, acts
from ..http.deployment import ServedDeployment
from ..past.requests import read_edits, refusals
from .shapes import ConsoleJSON, event_fields, page_of_runs, stored_values

#: Maximum points and work items in one response: the last points, the first items.
POINTS, ITEMS = 2_000, 200


def history_routes(deployment: ServedDeployment) -> list[Route]:
    """The routes about the past of a run."""
    data = _HistoryData(deployment)
    run = "/console/runs/{run_id}"
    return [
        Route(f"{run}/history", data.points, methods=["GET"], include_in_schema=False),
        Route(f"{run}/history/{{seq:int}}", data.point, methods=["GET"], include_in_schema=False),
        Route(f"{run}/family", data.family, methods=["GET"], include_in_schema=False),
        Route(f"{run}/fork", data.fork, methods=["POST"], include_in_schema=False),
        Route(f"{run}/rewind", data.rewind, methods=["POST"], include_in_schema=False),
    ]


class _HistoryData:
    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    @acts("read")
    async def points(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/history`: the changes that are kept, oldest first.

        `before`: with `work`, the number of the last point before that work item was first executed.
        """
        handler = await self._handler(request)
        found = [point async for point in handler.history()]
        shown = {"points": [_point(each) for each in found[-POINTS:]], "left_out": len(found[:-POINTS])}
        return ConsoleJSON(shown | {"before": before_work(found, request.query_params.get("work", ""))})

    @acts("read")
    async def point(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/history/{seq}`: state and live work at that point.

        `difference`: with `against`, what changed in the state from the earlier to the later of the two points.
        """
        handler = await self._handler(request)
        with refusals():
            found: PointInTime = await handler.at(request.path_params["seq"])
            against = request.query_params.get("against", "")
            other: PointInTime | None = await handler.at(int(against[:9])) if against.isdecimal() else None
        pair = [] if other is None else sorted((found, other), key=lambda each: each.seq)
        return ConsoleJSON(_past(found) | {"difference": _changes(*pair) if pair else None})

    @acts("read")
    async def family(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/family`: the run, its origins and all their forks, origins first."""
        deployment, access = self._deployment, request.scope[ACCESS]
        handler = await self._handler(request)
        kin, is_partial = await family(deployment.store, handler.run_id, lambda each: _may_read(access, each))
        rows = page_of_runs(
            await read_rows(deployment.store, [each.run_id for each in kin]), None, None, deployment.routes()
        )["runs"]
        about = {each.run_id: {"origin": each.origin, "seq": each.seq} for each in kin}
        return ConsoleJSON(
            {"runs": [row | about[row["run_id"]] | {"parent": None} for row in rows], "is_partial": is_partial}
        )

    @acts("read")
    async def fork(self, request: Request) -> Response:
        """`POST /console/runs/{run_id}/fork`: starts a run from the point `seq`, with edits of `state` and `events`.

        Instead of `seq`, `before: "failure"` selects the point before the step began that the run failed on; `fields`
        then replaces fields of its event. `reuse` is as in the library.
        """
        await request.scope[ACCESS].check("start", None)
        handler = await self._handler(request)
        body, edits = read_edits(await request.body())
        reuse: Literal["none", "recorded"] = "recorded" if body.get("reuse") == "recorded" else "none"
        if body.get("before") == "failure":
            seq, work_id = await self._failure(handler)
            fields = body.get("fields")
            if not isinstance(fields, dict | None):
                raise HTTPException(400, "'fields' must be an object: the fields of the event to replace")
            edits["events"] = {work_id: fields} if fields else {}
        else:
            seq = _seq(body)
        with refusals(409):
            made: WorkflowHandler = await handler.fork(seq, reuse=reuse, **edits)
        return ConsoleJSON({"run_id": made.run_id})

    async def _failure(self, handler: WorkflowHandler) -> tuple[int, str]:
        points = [point async for point in handler.history()]
        failed = [each.work_id for each in points if each.kind == "commit" and each.outcome == "failed"]
        seq = before_work(points, failed[-1]) if failed else None
        if seq is None:
            raise HTTPException(409, f"The retained history of run {handler.run_id!r} has no failed step.")
        return seq, failed[-1]

    @acts("change")
    async def rewind(self, request: Request) -> Response:
        """`POST /console/runs/{run_id}/rewind`: the run itself continues from `seq`; running steps are stopped."""
        handler = await self._handler(request)
        body, edits = read_edits(await request.body())
        with refusals(409):
            await handler.rewind(_seq(body), stop_running=True, **edits)
        return ConsoleJSON({"run_id": handler.run_id})

    async def _handler(self, request: Request) -> WorkflowHandler:
        try:
            record = await self._deployment.store.run(request.path_params["run_id"])
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error
        return self._deployment.runtime.handler_of(record)


async def _may_read(access: Access, run_id: str) -> bool:
    return await access.allows("read", session_of(run_id))


def before_work(points: Sequence[Point], work_id: str) -> int | None:
    """Number of the last point before a work item was first executed, since the last rewind; None if it never was."""
    own = [each for each in points if work_id and each.work_id == work_id]
    if not own:
        return None
    branch = own[-1].branch
    begin = next(each.seq for each in points if each.branch == branch)
    return max(begin, next(each.seq for each in own if each.branch == branch) - 1)


def _seq(body: Mapping[str, Any]) -> int:
    seq = body.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool):
        raise HTTPException(400, "'seq' is required: the number of the point")
    return seq


def _changes(before: PointInTime, after: PointInTime) -> list[dict[str, Any]]:
    """The changes from one state to the other, each with the previous value as `was`."""
    state = before.state()
    changes = before.diff(after)
    return [each if each["op"] == "add" else each | {"was": value_at(state, each["path"])} for each in changes]


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
        "back_to": point.back_to,
    }


def _past(found: PointInTime) -> dict[str, Any]:
    work = found.work()
    return _point(found) | {
        "status": work.status,
        "state": stored_values(dict(sorted(work.state.items()))),
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
