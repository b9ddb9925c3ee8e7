"""Workflows over HTTP: what there is, what it takes and gives, and starting runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...orchestration.model.errors import (
    ContextSerdeError,
    HandlerRunning,
    NotConfigured,
    PayloadTooLarge,
    WorkflowRuntimeError,
)
from ...tasks.client.runtime import start_event_for
from ...tasks.context.ctx import Context
from ...tasks.drawing.representation_builder import get_workflow_representation
from ...tasks.events.event import StartEvent
from .access import ACCESS, acts
from .deployment import Served, Serving
from .openapi import openapi_document
from .parsing import EventProblem, parse_event, read_object, read_text, registry_of
from .protocol import HandlerData, is_status_completed

#: How often a waiting request looks whether its client is still there and a worker is alive.
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class _Asked:
    """The body of a run request: what to begin with."""

    event: StartEvent | None
    handler_id: str | None
    context: Context[Any] | None


class WorkflowEndpoints:
    """The endpoints below `/workflows`, and those about the server itself."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

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

    # -- what there is ---------------------------------------------------------------------------------------------

    @acts("health")
    async def health(self, _: Request) -> Response:
        """`GET /health`: 503 once the server was stopped, and while nothing says where Redis is."""
        try:
            is_healthy = not self._serving.is_stopped and self._serving.runtime is not None
        except NotConfigured:
            is_healthy = False
        return JSONResponse({"status": "healthy" if is_healthy else "unhealthy"}, 200 if is_healthy else 503)

    @acts("describe")
    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        return JSONResponse(openapi_document(request.app.routes))

    @acts("describe")
    async def listing(self, _: Request) -> Response:
        """`GET /workflows`, in the order they were added."""
        return JSONResponse({"workflows": list(self._serving.workflows)})

    @acts("describe")
    async def schema(self, request: Request) -> Response:
        """`GET /workflows/{name}/schema`: of the start event and of the stop event."""
        workflow = self._serving.served(request.path_params["name"]).workflow
        schemas = {"start": workflow.start_event_class, "stop": workflow.stop_event_class}
        return JSONResponse({name: cls.model_json_schema() for name, cls in schemas.items()})

    @acts("describe")
    async def events(self, request: Request) -> Response:
        """`GET /workflows/{name}/events`: schemas of all its events, additional ones too."""
        name = request.path_params["name"]
        if name not in self._serving.workflows:
            raise HTTPException(404, f"Workflow '{name}' not found")
        return JSONResponse({"events": [cls.model_json_schema() for cls in self._serving.served(name).events]})

    @acts("describe")
    async def representation(self, request: Request) -> Response:
        """`GET /workflows/{name}/representation`: steps, events and resources as a graph."""
        workflow = self._serving.served(request.path_params["name"]).workflow
        return JSONResponse({"graph": get_workflow_representation(workflow).model_dump()})

    # -- starting runs ---------------------------------------------------------------------------------------------

    @acts("start")
    async def run_nowait(self, request: Request) -> Response:
        """`POST /workflows/{name}/run-nowait`: how the run stands right after its start."""
        data, _ = await self._begin(request)
        return JSONResponse(data.model_dump())

    @acts("start")
    async def run(self, request: Request) -> Response:
        """`POST /workflows/{name}/run`: answers when the run has ended; 500 unless it completed.

        503 when no live worker has its code for `no_worker_seconds`: the run is stored and goes on once one has.
        """
        data, served = await self._begin(request)
        alone_since: float | None = None
        while not is_status_completed(data.status):
            assert data.run_id is not None  # it was just started
            try:
                await self._serving.hub.await_ended(data.run_id, LOOK_SECONDS)
            except TimeoutError:
                if await request.is_disconnected():
                    return Response(status_code=499)  # nobody reads it; the run goes on
            data = await run_in_threadpool(self._data, data.run_id, served)
            now = time.monotonic()
            is_alone = data.status == "running" and data.error is not None
            alone_since = (alone_since or now) if is_alone else None
            if alone_since is not None and now - alone_since >= self._serving.no_worker_seconds:
                return JSONResponse(data.model_dump(), 503)
        return JSONResponse(data.model_dump(), 200 if data.status == "completed" else 500)

    async def _begin(self, request: Request) -> tuple[HandlerData, Served]:
        served = self._serving.served(request.path_params["name"])
        raw = await request.body()
        asked = await run_in_threadpool(self._read, served, raw)
        if asked.handler_id is not None:
            await request.scope[ACCESS].check("start", asked.handler_id)
        return await run_in_threadpool(self._start, served, asked), served

    def _read(self, served: Served, raw: bytes) -> _Asked:
        body = read_object(raw, "Invalid JSON body")
        handler_id = read_text(body, "handler_id")
        given = body.get("start_event", body.get("kwargs", {}))
        try:
            if given is None:
                event: Any = start_event_for(served.workflow, None, {})
            else:
                cls = served.workflow.start_event_class
                event = parse_event(given, registry_of([cls, *served.events]), start=cls)
        except (EventProblem, WorkflowRuntimeError) as problem:
            raise HTTPException(400, f"Validation error for 'start_event': {problem}") from problem
        if not isinstance(event, served.workflow.start_event_class):
            raise HTTPException(400, f"Start event must be an instance of {served.workflow.start_event_class}")
        context = self._context(served, body.get("context"), handler_id)
        has_new_input = bool(body.get("start_event") or body.get("kwargs"))
        goes_on = context is not None and context.is_running and not has_new_input
        return _Asked(None if goes_on else event, handler_id, context)

    def _context(self, served: Served, data: Any, handler_id: str | None) -> Context[Any] | None:
        if not data:
            return None
        if not self._serving.accept_context_api:
            raise HTTPException(
                400, "Context API is disabled. Set accept_context_api=True on WorkflowServer to enable it."
            )
        if handler_id is not None:
            raise HTTPException(
                400, "'context' and 'handler_id' exclude each other: a handler's next run has the state of its last."
            )
        if not isinstance(data, dict):
            raise HTTPException(400, "Error processing request body: 'context' must be an object")
        try:
            return Context.from_dict(served.workflow, data)
        except ContextSerdeError as error:
            raise HTTPException(400, f"Error processing request body: {error}") from error

    def _start(self, served: Served, asked: _Asked) -> HandlerData:
        try:
            run_id = self._serving.start(served, asked.event, asked.handler_id, asked.context)
        except HandlerRunning as error:
            raise HTTPException(409, str(error)) from error
        except PayloadTooLarge as error:
            raise HTTPException(413, str(error)) from error
        except WorkflowRuntimeError as error:  # the event or the handler id cannot be stored
            raise HTTPException(400, str(error)) from error
        except ContextSerdeError as error:
            raise HTTPException(400, f"Error processing request body: {error}") from error
        return self._data(run_id, served)

    def _data(self, run_id: str, served: Served) -> HandlerData:
        return self._serving.data(self._serving.store.run(run_id), served)
