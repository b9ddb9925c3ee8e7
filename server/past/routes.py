"""`/runs/{run_id}/…`: the changes of a run, the run after one of them, continuing from there, and its log.

As with a handler of the protocol, a run is found only if its workflow is served here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...orchestration.connection.keys import check_run_id
from ...orchestration.history.points import Point
from ...orchestration.history.verify import Verified
from ...orchestration.inspection.content.step_logs import read_log
from ...orchestration.model.durations import is_time_from_now
from ...orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ...orchestration.sessions.names import session_of
from ...orchestration.snapshots.saved import RunSnapshot
from ...tasks.client.handler import WorkflowHandler
from ...tasks.client.past import PointInTime
from ..http.access import ACCESS, acts
from ..http.deployment import ServedDeployment
from ..http.parsing import beside, read_text
from .requests import read_edits, read_point, refusals

#: Points in one response: the default, and the maximum.
LIMIT, MAX_LIMIT = 100, 1_000
#: Options of a fork, the default first.
CHOICES = {
    "reuse": ("none", "recorded"),
    "answers": ("ask", "recorded"),
    "children": ("keep", "fork"),
    "code": ("current", "recorded"),
}
#: Maximum work items, and differences of a verification, in one response.
ITEMS = 200


class PastEndpoints:
    """The endpoints below `/runs`."""

    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    def routes(self) -> list[Route]:
        """All routes below `/runs`."""
        run = "/runs/{run_id}"
        at = f"{run}/history/{{point}}"
        return [
            Route(f"{run}/history", self.points, methods=["GET"]),
            Route(at, self.point, methods=["GET"]),
            Route(f"{at}/state", self.state, methods=["GET"], name="state_at"),
            Route(f"{at}/work", self.work, methods=["GET"]),
            Route(f"{at}/snapshot", self.snapshot, methods=["GET"]),
            Route(f"{run}/diff", self.diff, methods=["GET"]),
            Route(f"{run}/verify", self.verify, methods=["GET"]),
            Route(f"{run}/logs", self.logs, methods=["GET"]),
            Route(f"{run}/fork", self.fork, methods=["POST"], name="fork_run"),
            Route(f"{run}/rewind", self.rewind, methods=["POST"], name="rewind_run"),
        ]

    # -- reading -------------------------------------------------------------------------------------------------------

    @acts("read")
    async def points(self, request: Request) -> Response:
        """`GET /runs/{id}/history`: the changes of the run that are kept, oldest first.

        At most `MAX_LIMIT` per answer; if there are more, the header `Link` has the address of the next page.
        """
        query = request.query_params
        limit, newest_first = _number(request, "limit", LIMIT), query.get("newest_first", "").lower() == "true"
        if not 0 < limit <= MAX_LIMIT:
            raise HTTPException(400, f"A page has 1 to {MAX_LIMIT:,} points. Follow the Link header for more.")
        handler = await self._handler(request)
        found: list[Point] = []
        async for point in handler.history(
            step=query.get("step") or None,
            kinds=query.getlist("kind") or None,
            after=_number(request, "after", 0),
            newest_first=newest_first,
        ):
            found.append(point)
            if len(found) > limit:
                break
        links = {}
        if len(found) > limit and not newest_first:
            url = request.url.include_query_params(after=found[limit - 1].seq)
            links["link"] = f'<{url.path}?{url.query}>; rel="next"'
        return JSONResponse({"points": [_point(each) for each in found[:limit]]}, headers=links)

    @acts("read")
    async def point(self, request: Request) -> Response:
        """`GET /runs/{id}/history/{point}`: the change, and the run's state and work after it.

        `point` is its number, or `before STEP`, `after STEP`, `before STEP#2`.
        """
        found = await self._at(request)
        return JSONResponse(_point(found) | {"state": found.state(), "work": _work(found.work())})

    @acts("read")
    async def state(self, request: Request) -> Response:
        """`GET /runs/{id}/history/{point}/state`: `ctx.store` as it was stored after the change."""
        return JSONResponse({"state": (await self._at(request)).state()})

    @acts("read")
    async def work(self, request: Request) -> Response:
        """`GET /runs/{id}/history/{point}/work`: unfinished work, waiters, open fan-outs, and the inbox."""
        return JSONResponse(_work((await self._at(request)).work()))

    @acts("read")
    async def snapshot(self, request: Request) -> Response:
        """`GET /runs/{id}/history/{point}/snapshot`: a snapshot that `Context.from_dict` accepts."""
        found = await self._at(request)
        return JSONResponse(await run_in_threadpool(found.to_dict))

    @acts("read")
    async def diff(self, request: Request) -> Response:
        """`GET /runs/{id}/diff?before=…&after=…`: what changed in the state between two points, as a JSON Patch."""
        names = [read_point(request.query_params.get(name), name) for name in ("before", "after")]
        handler = await self._handler(request)
        with refusals():
            before, after = [await handler.at(name) for name in names]
        return JSONResponse({"before": before.seq, "after": after.seq, "patch": before.diff(after)})

    @acts("read")
    async def verify(self, request: Request) -> Response:
        """`GET /runs/{id}/verify`: rebuilds the run from its journal and compares it with the run itself."""
        handler = await self._handler(request)
        with refusals():
            found: Verified = await handler.verify()
        differences = [
            {"key": each.key, "field": each.field, "expected": repr(each.expected), "found": repr(each.found)}
            for each in found.differences[:ITEMS]
        ]
        return JSONResponse({"holds": found.holds, "entries": found.entries, "differences": differences})

    @acts("read")
    async def logs(self, request: Request) -> Response:
        """`GET /runs/{id}/logs?step=…&work_id=…`: what the code of its steps has logged, in order."""
        query = request.query_params
        run_id = (await self._handler(request)).run_id
        log = await read_log(
            self._deployment.store, run_id, work_id=query.get("work_id") or None, step=query.get("step") or None
        )
        return JSONResponse(await run_in_threadpool(asdict, log))

    async def _at(self, request: Request) -> PointInTime:
        handler = await self._handler(request)
        with refusals():
            found: PointInTime = await handler.at(read_point(request.path_params["point"]))
        return found

    # -- continuing ----------------------------------------------------------------------------------------------------

    @acts("read")
    async def fork(self, request: Request) -> Response:
        """`POST /runs/{id}/fork`: starts a run that continues from `point`, with edits of `state` and `events`."""
        raw = await request.body()
        body, edits = await beside(raw, read_edits, raw)
        point, run_id, session = read_point(body.get("point")), read_text(body, "run_id"), read_text(body, "session_id")
        options = {name: _choice(body, name) for name in CHOICES}
        keeps_keys = _flag(body, "keep_idempotency_keys")
        about = session if run_id is None else session_of(run_id)
        await request.scope[ACCESS].check("start", about)
        handler = await self._handler(request)
        with refusals(409):
            made: WorkflowHandler = await handler.fork(
                point,
                run_id=run_id,
                session=session,
                keep_idempotency_keys=keeps_keys,
                timeout_seconds=_seconds(body),
                **options,
                **edits,
            )
        return JSONResponse({"run_id": made.run_id})

    @acts("change")
    async def rewind(self, request: Request) -> Response:
        """`POST /runs/{id}/rewind`: the run itself continues from `point`; a running run requires `stop_running`."""
        raw = await request.body()
        body, edits = await beside(raw, read_edits, raw)
        point, stop_running = read_point(body.get("point")), _flag(body, "stop_running")
        handler = await self._handler(request)
        with refusals(409):
            await handler.rewind(point, stop_running=stop_running, timeout_seconds=_seconds(body), **edits)
        return JSONResponse({"run_id": handler.run_id})

    async def _handler(self, request: Request) -> WorkflowHandler:
        try:
            record = await self._deployment.store.run(check_run_id(request.path_params["run_id"]))
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, "Run not found") from error
        served = self._deployment.served_of(record)
        if served is None:
            raise HTTPException(404, "Run not found")
        return self._deployment.handler(record, served)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise HTTPException(400, f"Invalid {name}: {text[:100]!r}; expected a number")
    return int(text)


def _choice(body: dict[str, Any], name: str) -> Any:
    value = body.get(name, CHOICES[name][0])
    if value not in CHOICES[name]:
        raise HTTPException(400, f"Invalid {name}: {str(value)[:100]!r}; expected {' or '.join(CHOICES[name])}")
    return value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise HTTPException(400, f"{name!r} must be a boolean")
    return value


def _seconds(body: dict[str, Any]) -> float | None:
    value = body.get("timeout_seconds")
    if value is not None and not is_time_from_now(value):
        raise HTTPException(400, "'timeout_seconds' must be a number of seconds, 0 or more")
    return None if value is None else float(value)


def _point(point: Point) -> dict[str, Any]:
    return {
        "seq": point.seq,
        "at": point.at.isoformat(),
        "kind": point.kind,
        "step": point.step,
        "attempt": point.attempt,
        "work_id": point.work_id,
        "worker": point.worker,
        "outcome": point.outcome,
        "event": point.event,
        "reused": point.reused,
        "branch": point.branch,
        "state_version": point.state_version,
        "bytes": point.bytes,
    }


def _work(work: RunSnapshot) -> dict[str, Any]:
    """The work of a run: the first `ITEMS` of each list, and the counts of all."""
    return {
        "status": work.status,
        "items": [
            {
                "work_id": item.work_id,
                "step": item.step,
                "is": "running" if item.running else "suspended" if item.suspended else "waiting",
                "failures": item.failures,
                "events": [{"type": event.type, "value": event.value()} for event in item.events[:ITEMS]],
            }
            for item in work.items[:ITEMS]
        ],
        "item_count": len(work.items),
        "waiters": [
            {"work_id": each.waiter.work_id, "step": each.waiter.step, "event": each.waiter.event_type}
            for each in work.waiters[:ITEMS]
        ],
        "waiter_count": len(work.waiters),
        "fan_out_count": len(work.scopes),
        "inbox_count": len(work.inbox),
    }
