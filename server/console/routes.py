"""The console page and its data: `/` and `/console/…`.

Runs are addressed by run id, so that runs of workflows which this server does not serve, and earlier runs of a handler,
can be shown too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...orchestration.inspection.content.event_search import Found, runs_with
from ...orchestration.inspection.run_detail import read_detail
from ...orchestration.inspection.run_list import Readable, RunPage, RunQuery, list_runs
from ...orchestration.inspection.run_rows import waiting_runs
from ...orchestration.model.errors import (
    NotRetried,
    PayloadTooLarge,
    RunNotFound,
    UnserializableValue,
    WorkflowRuntimeError,
)
from ...orchestration.sessions.names import session_of
from ...orchestration.store.replies import RunRecord
from ...orchestration.streams.log import read_heads
from ...orchestration.streams.reader import StreamReader
from ...tasks.events.event import Event, event_name, loaded_event
from ...tasks.events.run_events import SYSTEM_EVENTS
from ...tasks.steps.discovery import steps_of
from ..http.access import ACCESS, Access, acts
from ..http.cursors import Cursors
from ..http.deployment import ServedDeployment, ServedWorkflow
from ..http.event_stream import SSE, EventStreamResponse, frames
from ..http.parsing import EventProblem, beside, make_event, read_object, read_text
from .child_rows import child_rows
from .deployment_routes import deployment_routes
from .graph import graph_of, graph_of_plan
from .history_routes import history_routes
from .page_files import FILE_PATH, PAGE_PATH, PageFile, page_files
from .shapes import ConsoleJSON, page_of_runs, run_shape, workflow_shape
from .work_routes import work_routes


def console_routes(deployment: ServedDeployment) -> list[Route]:
    """The routes of the console."""
    return [
        *_page_routes(),
        *_WorkflowData(deployment).routes(),
        *deployment_routes(deployment),
        *_RunData(deployment).routes(),
        *work_routes(deployment),
        *history_routes(deployment),
    ]


# -- the page --------------------------------------------------------------------------------------------------------


def _page_routes() -> list[Route]:
    return [
        Route(PAGE_PATH, _page, methods=["GET"], include_in_schema=False),
        Route(FILE_PATH + "{name}", _file, methods=["GET"], include_in_schema=False),
    ]


@acts("page")
async def _page(request: Request) -> Response:
    """`GET /`: the page. It contains no data and needs no token."""
    return _sent(request, page_files()["index.html"])


@acts("page")
async def _file(request: Request) -> Response:
    """`GET /console/page/{name}`: a stylesheet, script or image."""
    found = page_files().get(request.path_params["name"])
    if found is None:
        raise HTTPException(404, "Not Found")
    return _sent(request, found)


def _sent(request: Request, file: PageFile) -> Response:
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


# -- workflows -------------------------------------------------------------------------------------------------------


class _WorkflowData:
    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    def routes(self) -> list[Route]:
        return [
            Route("/console/workflows", self.all, methods=["GET"], include_in_schema=False),
            Route("/console/workflows/{name}", self.get, methods=["GET"], include_in_schema=False),
        ]

    @acts("describe")
    async def all(self, _: Request) -> Response:
        """`GET /console/workflows`: the served workflows with their descriptions."""
        return ConsoleJSON({"workflows": [await self._shape(each) for each in self._deployment.workflows.values()]})

    @acts("describe")
    async def get(self, request: Request) -> Response:
        """`GET /console/workflows/{name}`: its start event's schema, and its graph with coordinates."""
        served = self._deployment.served(request.path_params["name"])
        graph = await run_in_threadpool(graph_of, served.workflow)
        return ConsoleJSON(await self._shape(served) | {"graph": graph})

    async def _shape(self, served: ServedWorkflow) -> dict[str, Any]:
        has_worker = await self._deployment.is_served(served.workflow.workflow_name)
        return workflow_shape(served.name, served.workflow, has_worker=has_worker)


# -- runs ------------------------------------------------------------------------------------------------------------


class _RunData:
    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    def routes(self) -> list[Route]:
        run = "/console/runs/{run_id}"
        return [
            Route("/console/runs", self.list, methods=["GET"], include_in_schema=False),
            Route(run, self.get, methods=["GET"], include_in_schema=False),
            Route(f"{run}/graph", self.graph, methods=["GET"], include_in_schema=False),
            Route(f"{run}/events", self.events, methods=["GET"], include_in_schema=False),
            Route(f"{run}/send", self.send, methods=["POST"], include_in_schema=False),
            Route(f"{run}/cancel", self.cancel, methods=["POST"], include_in_schema=False),
            Route(f"{run}/retry", self.retry, methods=["POST"], include_in_schema=False),
        ]

    # -- reading ---------------------------------------------------------------------------------------------------

    @acts("list")
    async def list(self, request: Request) -> Response:
        """`GET /console/runs`: a page of runs, newest first.

        Query: `status` (as shown: `running`, `waiting`, `queued`, `completed`, …) and `workflow` (the name it is served
            under, or its full name), both repeatable, `search`, `since_seconds`, `limit`, `cursor`. `content` selects
            runs with an event that contains it; `found` has that event. The numbers of runs are included only if no
            `authorize` hook limits what a caller may see.
        """
        access: Access = request.scope[ACCESS]
        cursors = await self._deployment.cursors()
        query, content = await self._query(request, cursors), request.query_params.get("content", "").strip()[:200]
        page, found = await self._page(query, content, access.readable())
        runs = [replace(run, parent=await _shown_parent(access, run.parent)) for run in page.runs]
        counts = await self._counted(page) if access.authorize is None else None
        shape = page_of_runs(runs, counts, cursors.sealed(page.cursor), self._deployment.routes())
        return ConsoleJSON(shape | {"found": {run_id: asdict(each) for run_id, each in found.items()}})

    async def _counted(self, page: RunPage) -> dict[str, int]:
        waiting = await waiting_runs(self._deployment.store) if page.counts["running"] else 0
        if waiting is None:
            return page.counts
        return page.counts | {"running": page.counts["running"] - waiting, "waiting": waiting}

    async def _query(self, request: Request, cursors: Cursors) -> RunQuery:
        given = request.query_params
        search = given.get("search", "").strip()[:200]
        since_seconds = _whole_number(request, "since_seconds", 0)
        try:
            cursor = cursors.opened(given.get("cursor") or None)
        except WorkflowRuntimeError as error:
            raise HTTPException(400, str(error)) from error
        return RunQuery(
            shown=tuple(each for each in given.getlist("status") if each),
            workflows=tuple(self._full_name(each) for each in given.getlist("workflow") if each),
            search=search,
            named=tuple(
                name for name, route in self._deployment.routes().items() if search.casefold() in route.casefold()
            ),
            since_at=await self._deployment.now() - 1000 * since_seconds if since_seconds else 0,
            limit=_whole_number(request, "limit", 50),
            cursor=cursor,
        )

    def _full_name(self, given: str) -> str:
        served = self._deployment.workflows.get(given)
        return served.workflow.workflow_name if served else given

    async def _page(
        self, query: RunQuery, content: str, readable: Readable | None
    ) -> tuple[RunPage, Mapping[str, Found]]:
        try:
            if content:
                return await runs_with(self._deployment.store, query, content, readable)
            return await list_runs(self._deployment.store, query, readable), {}
        except WorkflowRuntimeError as error:
            raise HTTPException(400, str(error)) from error

    @acts("read")
    async def get(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}`: its status, steps, open questions, state, timeline and child runs."""
        access: Access = request.scope[ACCESS]
        shape = await self._shape(_id(request))
        children, are_more = await child_rows(self._deployment, shape["run_id"], access)
        return ConsoleJSON(
            shape
            | {"parent": await _shown_parent(access, shape["parent"])}
            | {"children": children, "has_more_children": are_more}
        )

    async def _shape(self, run_id: str) -> dict[str, Any]:
        try:
            found = await read_detail(self._deployment.store, run_id)
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error
        served = self._deployment.served_of(found.record)
        classes = {event_name(cls): cls for cls in served.accepted_events} if served else {}
        trouble = None if found.at_work else await self._deployment.no_worker_for(found.record)
        return await run_in_threadpool(run_shape, found, classes, served.name if served else None, trouble)

    @acts("read")
    async def graph(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/graph`: from its workflow's code if loaded here, else from its plan."""
        record = await self._record(_id(request))
        plan = await self._deployment.store.plan(record.run_id, record.plan_digest)
        served = self._deployment.served_of(record)
        if served is None or {step.name for step in plan.steps} != set(steps_of(type(served.workflow))):
            return ConsoleJSON(await run_in_threadpool(graph_of_plan, plan))
        return ConsoleJSON(await run_in_threadpool(graph_of, served.workflow))

    @acts("stream")
    async def events(self, request: Request) -> Response:
        """`GET /console/runs/{run_id}/events`: as `GET /events/{handler_id}`, including internal events."""
        run_id = _id(request)
        reader = await self._reader(run_id, _after(request))
        if reader is None:
            return Response(status_code=204)
        if request.method == "HEAD":
            return Response(media_type=SSE)
        deployment = self._deployment
        access: Access = request.scope[ACCESS]
        return EventStreamResponse(
            frames(reader, with_origin=True, heartbeat_seconds=deployment.heartbeat_seconds),
            media_type=SSE,
            is_still_allowed=lambda: access.allows("stream", session_of(run_id)),
            check_seconds=deployment.reauthorize_seconds,
            slow_seconds=deployment.slow_reader_seconds,
            on_open=deployment.count_reader,
        )

    async def _reader(self, run_id: str, after: int) -> StreamReader | None:
        await self._record(run_id)
        head, is_running = (await read_heads(self._deployment.store, [run_id]))[run_id]
        if not is_running and after >= head:
            return None
        return self._deployment.hub.reader(run_id, max(-1, min(after, head)), True)

    # -- acting ----------------------------------------------------------------------------------------------------

    @acts("send")
    async def send(self, request: Request) -> Response:
        """`POST /console/runs/{run_id}/send`: sends an event `{type, qualified_name, value}` to the run.

        Unlike in the protocol, an event that a step is waiting for may be sent even if it is in no signature: its class
        is looked up among those loaded here, by the name stored with the waiting step.
        """
        raw = await request.body()
        body = await beside(raw, read_object, raw, "Invalid JSON body")
        record = await self._record(_id(request))
        if record.status != "running":
            raise HTTPException(409, f"Run {record.run_id!r} has ended: its status is {record.status}.")
        name = read_text(body, "qualified_name") or read_text(body, "type") or ""
        try:
            event = await beside(raw, make_event, await self._event_class(record, name), body.get("value"))
            await self._deployment.runtime.handler_of(record).send_event(event)
        except (EventProblem, UnserializableValue) as error:
            raise HTTPException(400, str(error)) from error
        except PayloadTooLarge as error:
            raise HTTPException(413, str(error)) from error
        except WorkflowRuntimeError as error:
            raise HTTPException(409, str(error)) from error
        return ConsoleJSON({"status": "sent"})

    async def _event_class(self, record: RunRecord, name: str) -> type[Event]:
        served = self._deployment.served_of(record)
        known = {event_name(cls): cls for cls in served.accepted_events} if served else {}
        surroundings = await self._deployment.store.surroundings(record.run_id)
        awaited = {each.event_type for each in surroundings.waiters}
        for each in sorted(awaited - known.keys()):
            found = loaded_event(each)
            if found is not None and not issubclass(found, SYSTEM_EVENTS):
                known[each] = found
        fitting = [cls for each, cls in known.items() if name in (each, cls.__name__)]
        if not fitting:
            raise HTTPException(
                400,
                f"No event {name[:200]!r} can be sent to this run. It accepts: {', '.join(sorted(known))}. "
                "The event's module must be loaded by the server.",
            )
        return fitting[0]

    @acts("cancel")
    async def cancel(self, request: Request) -> Response:
        """`POST /console/runs/{run_id}/cancel`."""
        record = await self._record(_id(request))
        await self._deployment.runtime.handler_of(record).cancel()
        if (status := (await self._record(record.run_id)).status) != "cancelled":
            raise HTTPException(409, f"Run {record.run_id!r} has already ended: its status is {status}.")
        return ConsoleJSON({"status": "cancelled"})

    @acts("retry")
    async def retry(self, request: Request) -> Response:
        """`POST /console/runs/{run_id}/retry`: runs unfinished steps again; finished ones are kept."""
        record = await self._record(_id(request))
        try:
            await self._deployment.runtime.engine.retry(record.run_id)
        except NotRetried as error:
            raise HTTPException(409, str(error)) from error
        return ConsoleJSON({"status": "running"})

    async def _record(self, run_id: str) -> RunRecord:
        try:
            return await self._deployment.store.run(run_id)
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, str(error)) from error


async def _shown_parent(access: Access, parent: str | None) -> str | None:
    return parent if parent is None or await access.allows("read", session_of(parent)) else None


def _id(request: Request) -> str:
    run_id: str = request.path_params["run_id"]
    return run_id


def _whole_number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise HTTPException(400, f"Invalid {name}: {text[:100]!r}")
    return int(text)


def _after(request: Request) -> int:
    """The last sequence number the client has seen; -1 for none."""
    text = request.headers.get("last-event-id") or request.query_params.get("after_sequence") or "-1"
    try:
        return int(text[:20])
    except ValueError:
        raise HTTPException(400, f"Invalid after_sequence: {text[:100]!r}") from None
