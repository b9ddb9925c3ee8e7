"""Handlers over HTTP: their status and events, sending events, cancelling."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...orchestration.inspection.run_list import newest_handlers
from ...orchestration.model.errors import PayloadTooLarge, RunNotFound, UnserializableValue, WorkflowRuntimeError
from ...orchestration.store.replies import RunRecord
from ...orchestration.streams.log import read_heads
from ...orchestration.streams.reader import StreamReader
from .access import ACCESS, Access, acts
from .deployment import ServedDeployment
from .event_stream import NDJSON, SSE, EventStreamResponse, frames
from .parsing import EventProblem, beside, parse_event, read_object, read_text, registry_of
from .protocol import RUN_STATUSES_OF, HandlerData, is_status_completed, plain_result

#: Handlers on one page of the list, by default and at most.
MAX_LIMIT = 1_000


class HandlerEndpoints:
    """The endpoints below `/handlers`, `/events` and `/results`."""

    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    def routes(self) -> list[Route]:
        """In the order of the protocol."""
        return [
            Route("/handlers", self.listing, methods=["GET"]),
            Route("/handlers/{handler_id}", self.get, methods=["GET"]),
            Route("/handlers/{handler_id}/cancel", self.cancel, methods=["POST"]),
            Route("/results/{handler_id}", self.result, methods=["GET"]),
            Route("/events/{handler_id}", self.stream, methods=["GET"]),
            Route("/events/{handler_id}", self.send, methods=["POST"]),
        ]

    # -- status --------------------------------------------------------------------------------------------------

    @acts("list")
    async def listing(self, request: Request) -> Response:
        """`GET /handlers`, newest first; each handler with its current run.

        At most `MAX_LIMIT` per answer; if there may be more, the header `Link` has the address of the next page.
        """
        statuses = _filter(request, "status")
        names = _filter(request, "workflow_name")
        limit = _number(request, "limit", MAX_LIMIT)
        if limit > MAX_LIMIT:
            raise HTTPException(400, f"A page has at most {MAX_LIMIT:,} handlers. Follow the Link header for more.")
        cursors = await self._deployment.cursors()
        wanted = [run for status, runs in RUN_STATUSES_OF.items() if not statuses or status in statuses for run in runs]
        access: Access = request.scope[ACCESS]
        try:
            cursor = cursors.opened(request.query_params.get("cursor") or None)
            rows, cursor = await self._newest(wanted, names, limit, cursor, access)
        except WorkflowRuntimeError as error:
            raise HTTPException(400, str(error)) from error
        links = next_page(request, cursors.sealed(cursor))
        return JSONResponse({"handlers": [row.model_dump() for row in rows]}, headers=links)

    async def _newest(
        self, statuses: list[str], names: Collection[str], limit: int, cursor: str | None, access: Access
    ) -> tuple[list[HandlerData], str | None]:
        def is_wanted(record: RunRecord) -> bool:
            served = self._deployment.served_of(record)
            return served is not None and (not names or served.name in names)

        workflows = {each.workflow.workflow_name for each in self._deployment.workflows.values()}
        found = await newest_handlers(
            self._deployment.store,
            is_wanted,
            statuses=statuses if workflows else (),
            workflows=workflows,
            limit=limit,
            cursor=cursor,
            readable=access.readable(),
        )
        rows = [
            await self._deployment.data(record, served)
            for record in found.records
            if (served := self._deployment.served_of(record))
        ]
        return rows, found.cursor

    @acts("read")
    async def get(self, request: Request) -> Response:
        """`GET /handlers/{id}`: 200 completed, 202 running, 500 failed or cancelled."""
        data, _ = await self._look(request)
        return JSONResponse(data.model_dump(), _status_code(data))

    @acts("read")
    async def result(self, request: Request) -> Response:
        """`GET /results/{id}`, deprecated: as `GET /handlers/{id}`, with the plain result."""
        data, plain = await self._look(request)
        return JSONResponse(data.model_dump() | {"result": plain}, _status_code(data))

    async def _look(self, request: Request) -> tuple[HandlerData, Any]:
        record, served = await self._deployment.addressed(request)
        data = await self._deployment.data(record, served, of_session="session_id" in request.path_params)
        if data.result_unreadable:
            raise HTTPException(422, "Stored handler result cannot be decoded")
        return data, plain_result(record)

    # -- sending, cancelling ---------------------------------------------------------------------------------------

    @acts("send")
    async def send(self, request: Request) -> Response:
        """`POST /events/{id}`: sends an event to every step that accepts it, or to one step."""
        raw = await request.body()
        body = await beside(raw, read_object, raw, "Error processing request")
        step = read_text(body, "step")
        event = body.get("event")
        if not event:
            raise HTTPException(400, "Event data is required")
        await self._send(request, event, step, raw)
        return JSONResponse({"status": "sent"})

    async def _send(self, request: Request, data: Any, step: str | None, raw: bytes) -> None:
        record, served = await self._deployment.addressed(request)
        if record.status != "running":
            raise HTTPException(409, "Workflow already completed")
        try:
            event = await beside(raw, parse_event, data, registry_of(served.accepted_events))
        except EventProblem as problem:
            raise HTTPException(400, str(problem)) from problem
        handler = self._deployment.handler(record, served)
        try:
            await handler.send_event(event, step)
        except RunNotFound as error:
            raise HTTPException(404, "Handler not found") from error
        except PayloadTooLarge as error:
            raise HTTPException(413, str(error)) from error
        except UnserializableValue as error:
            raise HTTPException(400, str(error)) from error
        except WorkflowRuntimeError as error:
            if (await self._deployment.store.run(record.run_id)).status != "running":
                raise HTTPException(409, "Workflow already completed") from error
            raise HTTPException(400, f"Failed to send event: {error}") from error

    @acts("cancel")
    async def cancel(self, request: Request) -> Response:
        """`POST /handlers/{id}/cancel`: cancels the run; with `purge=true` deletes the handler and its data."""
        handler_id = request.path_params.get("handler_id")
        purge = handler_id is not None and _flag(request, "purge", False)
        if purge:
            await request.scope[ACCESS].check("purge", handler_id)
        status = await self._cancel(request, purge)
        return JSONResponse({"status": status})

    async def _cancel(self, request: Request, purge: bool) -> str:
        if purge:  # also for a workflow that is no longer served
            record = await self._deployment.any_record(request.path_params["handler_id"])
        else:
            record, _ = await self._deployment.addressed(request)
        if record.status == "running":
            await self._deployment.runtime.handler(record.run_id).cancel()
        elif not purge:
            raise HTTPException(404, "Handler not found")
        if not purge:
            return "cancelled"
        if not await self._deployment.purge(request.path_params["handler_id"]):
            raise HTTPException(409, "Another run of this session is running; nothing was deleted")
        return "deleted"

    # -- events ---------------------------------------------------------------------------------------------------

    @acts("stream")
    async def stream(self, request: Request) -> Response:
        """`GET /events/{id}`: streams the run's events after a cursor, until it ends; 204 if there are no more."""
        sse = _flag(request, "sse", True)
        after = _cursor(request, sse=sse)
        reader = await self._reader(request, after, include_internal=_flag(request, "include_internal", False))
        if reader is None:
            return Response(status_code=204)
        if request.method == "HEAD":
            return Response(media_type=SSE if sse else NDJSON)
        deployment = self._deployment
        access: Access = request.scope[ACCESS]
        about = request.path_params.get("handler_id") or request.path_params["session_id"]
        parts = frames(
            reader,
            sse=sse,
            with_qualified_name=_flag(request, "include_qualified_name", True),
            event_types=_filter(request, "event_type"),
            heartbeat_seconds=deployment.heartbeat_seconds,
        )
        return EventStreamResponse(
            parts,
            media_type=SSE if sse else NDJSON,
            is_still_allowed=None if access.authorize is None else lambda: access.allows("stream", about),
            check_seconds=deployment.reauthorize_seconds,
            slow_seconds=deployment.slow_reader_seconds,
            on_open=deployment.count_reader,
        )

    async def _reader(self, request: Request, after: int | None, *, include_internal: bool) -> StreamReader | None:
        record, _ = await self._deployment.addressed(request)
        head, is_running = (await read_heads(self._deployment.store, [record.run_id]))[record.run_id]
        position = head if after is None else max(-1, min(after, head))
        if not is_running and position >= head:
            return None
        return self._deployment.hub.reader(record.run_id, position, include_internal)


def next_page(request: Request, cursor: str | None) -> dict[str, str]:
    """The header with the address of the next page, relative to the server; none without a cursor."""
    if cursor is None:
        return {}
    url = request.url.include_query_params(cursor=cursor)
    return {"link": f'<{url.path}?{url.query}>; rel="next"'}


def _status_code(data: HandlerData) -> int:
    if not is_status_completed(data.status):
        return 202
    return 200 if data.status == "completed" else 500


def _flag(request: Request, name: str, default: bool) -> bool:
    """A boolean parameter: only `true`, in any case, is true."""
    return request.query_params.get(name, str(default)).lower() == "true"


def _filter(request: Request, name: str) -> list[str]:
    """The values of a repeatable or comma-separated parameter; none for no filter."""
    values = (part for value in request.query_params.getlist(name) for part in value.split(","))
    return [value.strip() for value in values if value.strip()]


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise HTTPException(400, f"Invalid {name}: {text[:100]!r}")
    return int(text)


def _cursor(request: Request, *, sse: bool) -> int | None:
    """Where a stream begins; None for now. A reconnecting browser sends its last id as `Last-Event-ID`."""
    text = request.query_params.get("after_sequence", "now")
    seen = request.headers.get("last-event-id", "") if sse else ""
    after = None if text.lower() == "now" else _integer(text)
    if after is None and text.lower() != "now":
        raise HTTPException(400, f"Invalid after_sequence: {text[:100]!r}")
    last = _integer(seen)
    return after if last is None else last


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
