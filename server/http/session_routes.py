"""Sessions over HTTP: the list, their runs, their state and its versions; closing, forking, deleting them.

The runs of a session are started by the routes of workflows, with a `session_id`. One run of a session has the routes
of a handler below `/sessions/{session_id}/runs/{run_id}`.
"""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...orchestration.model.errors import SessionBusy, SessionExists, WorkflowRuntimeError
from ...orchestration.sessions.listing import MAX_LIMIT, Readable, SessionQuery, list_sessions
from ...orchestration.sessions.look import SessionRecord
from ...tasks.client.session import Session
from .access import ACCESS, Access, acts
from .deployment import ServedDeployment
from .handler_routes import HandlerEndpoints, next_page
from .parsing import beside, read_object, read_text
from .protocol import iso

#: Sessions, or runs of a session, in one response, by default; at most `MAX_LIMIT`.
LIMIT = 100


class SessionEndpoints:
    """The endpoints below `/sessions`."""

    def __init__(self, deployment: ServedDeployment, handlers: HandlerEndpoints) -> None:
        self._deployment, self._handlers = deployment, handlers

    def routes(self) -> list[Route]:
        """The routes of sessions, then those of one run of a session."""
        one, run = "/sessions/{session_id}", "/sessions/{session_id}/runs/{run_id}"
        return [
            Route("/sessions", self.listing, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/runs", self.runs, methods=["GET"]),
            Route(f"{one}/state", self.state, methods=["GET"]),
            Route(f"{one}/versions", self.versions, methods=["GET"]),
            Route(f"{one}/fork", self.fork, methods=["POST"]),
            Route(f"{one}/rewind", self.rewind, methods=["POST"]),
            Route(f"{one}/close", self.close, methods=["POST"]),
            Route(run, self._handlers.get, methods=["GET"], name="get_run"),
            Route(f"{run}/events", self._handlers.stream, methods=["GET"], name="stream_run"),
            Route(f"{run}/events", self._handlers.send, methods=["POST"], name="send_to_run"),
            Route(f"{run}/cancel", self._handlers.cancel, methods=["POST"], name="cancel_run"),
        ]

    # -- reading -------------------------------------------------------------------------------------------------------

    @acts("list")
    async def listing(self, request: Request) -> Response:
        """`GET /sessions`, by the latest begin or end of a run, newest first; `prefix`, `status`, `limit`, `cursor`.

        The work for an answer is limited: it may have fewer sessions than `limit`, even none, although there are more.
        If there may be more, the header `Link` has the address of the next page.
        """
        status = request.query_params.get("status") or None
        if status not in (None, "busy", "idle"):
            raise HTTPException(400, f"Invalid status: {status[:100]!r}; expected busy or idle")
        access: Access = request.scope[ACCESS]
        cursors = await self._deployment.cursors()
        try:
            query = SessionQuery(
                prefix=request.query_params.get("prefix", ""),
                status="busy" if status == "busy" else "idle" if status else None,
                limit=_limit(request),
                cursor=cursors.opened(request.query_params.get("cursor") or None),
            )
            page = await list_sessions(self._deployment.store, query, _readable(access))
        except WorkflowRuntimeError as error:
            raise HTTPException(400, str(error)) from error
        links = next_page(request, cursors.sealed(page.cursor))
        return JSONResponse({"sessions": [_record(each) for each in page.sessions]}, headers=links)

    @acts("read")
    async def get(self, request: Request) -> Response:
        """`GET /sessions/{id}`: whether a run is running, and which runs wait for their turn."""
        session, record = await self._found(request)
        waiting = await run_in_threadpool(session.waiting)
        return JSONResponse(_record(record) | {"waiting_runs": [each.run_id for each in waiting]})

    @acts("read")
    async def runs(self, request: Request) -> Response:
        """`GET /sessions/{id}/runs`: runs that wait, last in line first, then those that have begun, newest first."""
        session, _ = await self._found(request)
        waiting = await run_in_threadpool(session.waiting)
        begun = await run_in_threadpool(session.runs, _limit(request))
        records = await self._deployment.store.runs([each.run_id for each in [*reversed(waiting), *begun]])
        rows = [
            {
                "run_id": record.run_id,
                "workflow": record.workflow,
                "status": "queued" if record.is_queued else record.status,
                "started_at": iso(record.created_at),
                "completed_at": iso(record.ended_at),
            }
            for record in records
        ]
        return JSONResponse({"runs": rows})

    @acts("read")
    async def state(self, request: Request) -> Response:
        """`GET /sessions/{id}/state`: the state as it is stored, now or at a `version`."""
        session, _ = await self._found(request)
        text = request.query_params.get("version")
        version = None if text is None else _version(text)
        try:
            found = await run_in_threadpool(session.stored_state, version)
        except WorkflowRuntimeError as error:
            raise HTTPException(404, str(error)) from error
        return JSONResponse({"state": found})

    @acts("read")
    async def versions(self, request: Request) -> Response:
        """`GET /sessions/{id}/versions`: the versions of the state that its runs have left, the current one first."""
        session, _ = await self._found(request)
        found = await run_in_threadpool(session.versions)
        return JSONResponse({"versions": [{"version": each.version, "after": each.after} for each in found]})

    # -- changing ------------------------------------------------------------------------------------------------------

    @acts("read")
    async def fork(self, request: Request) -> Response:
        """`POST /sessions/{id}/fork`: creates a session `name` with the current state, or that of a version `at`."""
        raw = await request.body() or b"{}"
        body = await beside(raw, read_object, raw, "Invalid JSON body")
        name, at = read_text(body, "name"), body.get("at")
        if name is None:
            raise HTTPException(400, "'name' is required: the name of the new session")
        await request.scope[ACCESS].check("start", name)
        session, _ = await self._found(request)
        try:
            made = await session.fork(name, None if at is None else _version(at))
        except SessionExists as error:
            raise HTTPException(409, str(error)) from error
        except WorkflowRuntimeError as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse({"session_id": made.name})

    @acts("change")
    async def rewind(self, request: Request) -> Response:
        """`POST /sessions/{id}/rewind`: restores the state of version `to`; 409 while a run is running or waiting."""
        raw = await request.body() or b"{}"
        body = await beside(raw, read_object, raw, "Invalid JSON body")
        to = _version(body.get("to"))
        session, _ = await self._found(request)
        try:
            return JSONResponse({"version": await session.rewind(to=to)})
        except SessionBusy as error:
            raise HTTPException(409, str(error)) from error
        except WorkflowRuntimeError as error:
            raise HTTPException(400, str(error)) from error

    @acts("change")
    async def close(self, request: Request) -> Response:
        """`POST /sessions/{id}/close`: the session accepts no more runs."""
        session, _ = await self._found(request)
        await session.close()
        return JSONResponse({"status": "closed"})

    @acts("purge")
    async def delete(self, request: Request) -> Response:
        """`DELETE /sessions/{id}`: with its state and its stored runs; 409 while one is running or waiting."""
        session, _ = await self._found(request)
        try:
            await session.delete()
        except SessionBusy as error:
            raise HTTPException(409, str(error)) from error
        return JSONResponse({"status": "deleted"})

    async def _found(self, request: Request) -> tuple[Session, SessionRecord]:
        try:
            session = Session(request.path_params["session_id"], self._deployment.runtime)
        except WorkflowRuntimeError as error:
            raise HTTPException(404, "Session not found") from error
        record = await run_in_threadpool(session.record)
        if record is None:
            raise HTTPException(404, "Session not found")
        return session, record


def _readable(access: Access) -> Readable | None:
    """Which sessions a list may show, by name; None if all."""
    return None if access.authorize is None else lambda name: access.allows("read", name)


def _record(record: SessionRecord) -> dict[str, Any]:
    return {
        "session_id": record.name,
        "status": record.status,
        "run_id": record.run_id,
        "waiting": record.waiting,
        "version": record.version,
        "is_closed": record.is_closed,
        "changed_at": iso(record.changed_at),
    }


def _limit(request: Request) -> int:
    text = request.query_params.get("limit") or str(LIMIT)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 0 < int(text) <= MAX_LIMIT:
        raise HTTPException(400, f"Invalid limit: {text[:100]!r}; expected 1 to {MAX_LIMIT:,}")
    return int(text)


def _version(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 15:
        raise HTTPException(400, f"Invalid version: {text[:100]!r}; expected a number, as /versions lists them")
    return int(text)
