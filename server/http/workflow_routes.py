"""Workflows over HTTP: the list, their schemas, and starting runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast, get_args

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...orchestration.connection.keys import new_id
from ...orchestration.model.commands import WhenBusy
from ...orchestration.model.errors import (
    ContextSerdeError,
    NotConfigured,
    PayloadTooLarge,
    SessionBusy,
    SessionClosed,
    SessionFull,
    WorkflowRuntimeError,
)
from ...orchestration.sessions.names import session_of
from ...tasks.context.ctx import Context
from ...tasks.context.run_context import NewRunContext
from ...tasks.drawing.representation_builder import get_workflow_representation
from ...tasks.events.event import StartEvent
from ...tasks.workflow.start_events import start_event_for
from .access import ACCESS, Access, Action, acts
from .deployment import REQUEST, ServedDeployment, ServedWorkflow
from .openapi import openapi_document
from .parsing import EventProblem, parse_event, read_object, read_text, registry_of
from .protocol import HandlerData, is_status_completed

#: How often a waiting request checks that its client is connected and a worker is alive.
LIVENESS_CHECK_SECONDS = 2.0
#: Maximum length of an `Idempotency-Key`.
LONGEST_KEY = 255


#: The action that a start in a session also performs on the run that is running.
_ALSO: dict[WhenBusy, Action] = {"interrupt": "cancel", "rollback": "cancel", "join": "send"}


@dataclass(frozen=True)
class _RunRequest:
    """The parsed body of a run request."""

    event: StartEvent | None
    handler_id: str | None
    session_id: str | None
    when_busy: WhenBusy
    context: Context[Any] | None


class WorkflowEndpoints:
    """The endpoints below `/workflows`, and those of the server itself."""

    def __init__(self, deployment: ServedDeployment) -> None:
        self._deployment = deployment

    def routes(self) -> list[Route]:
        """In the order of the protocol."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/workflows", self.listing, methods=["GET"]),
            Route("/workflows/{name}/run", self.run, methods=["POST"]),
            Route("/workflows/{name}/run-nowait", self.run_nowait, methods=["POST"]),
            Route("/workflows/{name}/schema", self.schema, methods=["GET"]),
            Route("/workflows/{name}/events", self.events, methods=["GET"]),
            Route("/workflows/{name}/representation", self.representation, methods=["GET"]),
        ]

    # -- workflows ------------------------------------------------------------------------------------------------

    @acts("health")
    async def health(self, _: Request) -> Response:
        """`GET /health`: 503 after the server was stopped, and while no Redis is configured."""
        try:
            is_healthy = not self._deployment.is_stopped and self._deployment.runtime is not None
        except NotConfigured:
            is_healthy = False
        return JSONResponse({"status": "healthy" if is_healthy else "unhealthy"}, 200 if is_healthy else 503)

    @acts("describe")
    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        return JSONResponse(openapi_document(request.app.routes))

    @acts("describe")
    async def listing(self, _: Request) -> Response:
        """`GET /workflows`: names in the order they were added."""
        return JSONResponse({"workflows": list(self._deployment.workflows)})

    @acts("describe")
    async def schema(self, request: Request) -> Response:
        """`GET /workflows/{name}/schema`: JSON schemas of the start event and the stop event."""
        workflow = self._deployment.served(request.path_params["name"]).workflow
        schemas = {"start": workflow.start_event_class, "stop": workflow.stop_event_class}
        return JSONResponse({name: cls.model_json_schema() for name, cls in schemas.items()})

    @acts("describe")
    async def events(self, request: Request) -> Response:
        """`GET /workflows/{name}/events`: JSON schemas of all its events, including additional ones."""
        name = request.path_params["name"]
        if name not in self._deployment.workflows:
            raise HTTPException(404, f"Workflow '{name}' not found")
        return JSONResponse({"events": [cls.model_json_schema() for cls in self._deployment.served(name).events]})

    @acts("describe")
    async def representation(self, request: Request) -> Response:
        """`GET /workflows/{name}/representation`: steps, events and resources as a graph."""
        workflow = self._deployment.served(request.path_params["name"]).workflow
        return JSONResponse({"graph": get_workflow_representation(workflow).model_dump()})

    # -- starting runs ---------------------------------------------------------------------------------------------

    @acts("start")
    async def run_nowait(self, request: Request) -> Response:
        """`POST /workflows/{name}/run-nowait`: starts a run and answers immediately."""
        data, _ = await self._begin(request)
        return JSONResponse(data.model_dump())

    @acts("start")
    async def run(self, request: Request) -> Response:
        """`POST /workflows/{name}/run`: starts a run and answers when it has ended; 500 unless it completed.

        503 if no live worker has its code for `no_worker_seconds`: the run is stored and continues once one has.
        """
        data, served = await self._begin(request)
        no_worker_since: float | None = None
        while not is_status_completed(data.status):
            assert data.run_id is not None  # it was just started
            try:
                await self._deployment.hub.await_ended(data.run_id, LIVENESS_CHECK_SECONDS)
            except TimeoutError:
                if await request.is_disconnected():
                    return Response(status_code=499)  # the client has left; the run continues
            data = await self._data(data.run_id, served, of_session=data.status == "queued")
            now = time.monotonic()
            has_no_worker = not is_status_completed(data.status) and data.error is not None
            no_worker_since = (no_worker_since or now) if has_no_worker else None
            if no_worker_since is not None and now - no_worker_since >= self._deployment.no_worker_seconds:
                return JSONResponse(data.model_dump(), 503)
        return JSONResponse(data.model_dump(), 200 if data.status == "completed" else 500)

    async def _begin(self, request: Request) -> tuple[HandlerData, ServedWorkflow]:
        served = self._deployment.served(request.path_params["name"])
        raw = await request.body()
        wanted = await run_in_threadpool(self._read, served, raw)
        name = wanted.handler_id or wanted.session_id
        if name is not None:
            await request.scope[ACCESS].check("start", name)
            if wanted.when_busy in _ALSO:
                await request.scope[ACCESS].check(_ALSO[wanted.when_busy], name)
        return await self._start(served, wanted, await self._start_id(request, wanted), request.scope[ACCESS]), served

    async def _start_id(self, request: Request, wanted: _RunRequest) -> str | None:
        """The start id from the header `Idempotency-Key`, if there is one; each caller has its own keys."""
        key = request.headers.get("idempotency-key")
        if key is None:
            return None
        if wanted.when_busy == "join" or wanted.context is not None:
            raise HTTPException(
                400,
                "An 'Idempotency-Key' cannot be combined with when_busy 'join', nor with a 'context'.",
            )
        if not 0 < len(key) <= LONGEST_KEY:
            raise HTTPException(400, f"Invalid Idempotency-Key: expected 1 to {LONGEST_KEY} characters.")
        principal, name = request.scope[ACCESS].principal, wanted.handler_id or wanted.session_id or ""
        cursors = await self._deployment.cursors()
        return cursors.start_id(principal.name or principal.credentials or "", request.path_params["name"], name, key)

    def _read(self, served: ServedWorkflow, raw: bytes) -> _RunRequest:
        body = read_object(raw, "Invalid JSON body")
        handler_id, session_id = read_text(body, "handler_id"), read_text(body, "session_id")
        when_busy = _when_busy(body, handler_id, session_id)
        given = body.get("start_event", body.get("kwargs", {}))
        try:
            if given is None:
                event: Any = start_event_for(served.workflow, None, {})
            else:
                cls = served.workflow.start_event_class
                event = parse_event(given, registry_of([cls, *served.accepted_events]), start=cls)
        except (EventProblem, WorkflowRuntimeError) as problem:
            raise HTTPException(400, f"Validation error for 'start_event': {problem}") from problem
        if not isinstance(event, served.workflow.start_event_class):
            raise HTTPException(400, f"Start event must be an instance of {served.workflow.start_event_class}")
        context = self._context(served, body.get("context"), handler_id or session_id)
        has_new_input = bool(body.get("start_event") or body.get("kwargs"))
        continues = context is not None and context.is_running and not has_new_input
        return _RunRequest(None if continues else event, handler_id, session_id, when_busy, context)

    def _context(self, served: ServedWorkflow, data: Any, handler_id: str | None) -> Context[Any] | None:
        if not data:
            return None
        if not self._deployment.accept_context_api:
            raise HTTPException(
                400, "Context API is disabled. Set accept_context_api=True on WorkflowServer to enable it."
            )
        if handler_id is not None:
            raise HTTPException(
                400,
                "'context' and 'handler_id' or 'session_id' are mutually exclusive: the next run of a handler or "
                "session starts with the state of the one before.",
            )
        if not isinstance(data, dict):
            raise HTTPException(400, "Error processing request body: 'context' must be an object")
        try:
            return Context.over(NewRunContext.load_foreign(served.workflow, data, served.events))
        except ContextSerdeError as error:
            raise HTTPException(400, f"Error processing request body: {error}") from error

    async def _start(
        self, served: ServedWorkflow, wanted: _RunRequest, start_id: str | None, access: Access
    ) -> HandlerData:
        request_id = None if start_id is None else new_id()
        about = wanted.handler_id or wanted.session_id, wanted.when_busy, wanted.context, start_id, request_id
        try:
            run_id = await self._deployment.start(served, wanted.event, *about)
        except SessionBusy as error:
            text = str(error) if wanted.handler_id is None else f"Handler {wanted.handler_id!r} is already running"
            raise HTTPException(409, text) from error
        except SessionClosed as error:
            raise HTTPException(409, str(error)) from error
        except SessionFull as error:
            raise HTTPException(429, str(error)) from error
        except PayloadTooLarge as error:
            raise HTTPException(413, str(error)) from error
        except WorkflowRuntimeError as error:  # the event or the handler id cannot be stored
            raise HTTPException(400, str(error)) from error
        except ContextSerdeError as error:
            raise HTTPException(400, f"Error processing request body: {error}") from error
        if request_id is not None:
            record = await self._deployment.store.run(run_id)
            if record.options.get(REQUEST) != request_id:
                # Callers that only the hook can distinguish may have chosen equal keys.
                await _check_own(access, run_id)
        return await self._data(run_id, served, of_session=wanted.session_id is not None)

    async def _data(self, run_id: str, served: ServedWorkflow, *, of_session: bool) -> HandlerData:
        return await self._deployment.data(await self._deployment.store.run(run_id), served, of_session=of_session)


async def _check_own(access: Access, run_id: str) -> None:
    """Require that the caller may read the run that an earlier request with the same key has started.

    Raises:
        HTTPException: 403, it may not. The text does not name the run: its id may be that of another user.
    """
    if not await access.allows("read", session_of(run_id)):
        raise HTTPException(
            403, "Not allowed: this 'Idempotency-Key' was used by somebody else. Use a random one, such as a UUID."
        )


def _when_busy(body: dict[str, Any], handler_id: str | None, session_id: str | None) -> WhenBusy:
    """What to do with a run while another run of its session is running; a named handler refuses it."""
    given = read_text(body, "when_busy")
    if handler_id is not None and (session_id is not None or given is not None):
        raise HTTPException(
            400,
            "'handler_id' and 'session_id' or 'when_busy' are mutually exclusive: a named handler refuses a run while "
            "another one is running. Leave 'handler_id' out to start a run in a session.",
        )
    if given is not None and session_id is None:
        raise HTTPException(400, "'when_busy' is for runs of a session: give its 'session_id', too.")
    if given is not None and given not in get_args(WhenBusy):
        raise HTTPException(400, f"Invalid when_busy: {given[:100]!r}; expected one of {', '.join(get_args(WhenBusy))}")
    return "reject" if handler_id is not None else cast(WhenBusy, given or "queue")
