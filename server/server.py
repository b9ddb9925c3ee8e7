"""`WorkflowServer`: workflows of a deployment over HTTP, as an ASGI app and as a server process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..orchestration.model.errors import ConfigurationError, RunNotFound, StoreUnavailable
from ..tasks.client.runtime import Runtime
from ..tasks.client.workflow import Workflow
from ..tasks.events.event import Event
from .console.page_files import page_paths
from .console.routes import console_routes
from .http.access import Authorize, guarded
from .http.deployment import Served, Serving
from .http.guard import Guard, is_loopback
from .http.handler_routes import HandlerEndpoints
from .http.openapi import openapi_document
from .http.workflow_routes import WorkflowEndpoints
from .operations.routes import operation_routes

logger = logging.getLogger("umbel.server")

#: Of one request: the largest event that settings allow by default, and its envelope.
MAX_BODY_BYTES = (16 << 20) + (1 << 16)
#: How long open streams may go on when the server is asked to end; then they are cut, and clients go elsewhere.
GRACE_SECONDS = 3


class WorkflowServer:
    """Serves workflows over HTTP; their runs live in Redis, and workers execute them.

    Any number of servers may serve one deployment. Each answers for every run, and none is needed for a run to go on.
    Without a token or a hook it answers only to this machine's own names.

    Args:
        runtime: The deployment; by default what umbel is configured with, looked up when first needed.
        middleware: Starlette middleware, inside the guard.
        exception_handlers: Starlette exception handlers, beside those that make `{"detail": …}`.
        token: What every request has to show as `Authorization: Bearer …`; several as {name: token}.
        authorize: `authorize(principal, action, run_id)` is asked on every request, and again while a stream is open.
        sse_heartbeat_interval: Seconds without an event after which a stream gets a comment; None sends none.
        accept_context_api: Whether run requests may bring a `context` to begin with.
        max_body_bytes: Of one request; larger ones are refused unread.
        allowed_hosts: Names this server is asked for as, without port; None is any with a token or hook, else loopback.
        allowed_origins: Sites whose pages may call this server (CORS); by default none.
        public_paths: Exact paths that need no token, such as "/health" for a load balancer.
        slow_reader_seconds: A stream whose reader takes nothing for so long is cut off.
        reauthorize_seconds: How often `authorize` is asked again about an open stream.
        no_worker_seconds: How long `run` waits while no live worker serves the workflow, before it says so with a 503.

    Raises:
        ConfigurationError: A token is empty or an origin is no origin.
    """

    def __init__(
        self,
        *,
        runtime: Runtime | None = None,
        middleware: Sequence[Middleware] | None = None,
        exception_handlers: Mapping[Any, Any] | None = None,
        token: str | Mapping[str, str] | None = None,
        authorize: Authorize | None = None,
        sse_heartbeat_interval: float | None = 25.0,
        accept_context_api: bool = False,
        max_body_bytes: int = MAX_BODY_BYTES,
        allowed_hosts: Collection[str] | None = None,
        allowed_origins: Collection[str] = (),
        public_paths: Collection[str] = (),
        slow_reader_seconds: float = 60.0,
        reauthorize_seconds: float = 30.0,
        no_worker_seconds: float = 10.0,
    ) -> None:
        self._tokens = _tokens(token)
        self._authorize = authorize
        self.serving = Serving(
            runtime,
            accept_context_api=accept_context_api,
            heartbeat_seconds=sse_heartbeat_interval,
            slow_reader_seconds=slow_reader_seconds,
            reauthorize_seconds=reauthorize_seconds,
            no_worker_seconds=no_worker_seconds,
        )
        guard = Middleware(
            Guard,
            tokens=self._tokens,
            is_authorized_elsewhere=authorize is not None,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            public_paths=[*page_paths(), *public_paths],
            max_body_bytes=max_body_bytes,
        )
        self.app = Starlette(
            routes=[
                *guarded(WorkflowEndpoints(self.serving).routes(), "describe", authorize),
                *guarded(HandlerEndpoints(self.serving).routes(), "read", authorize),
                *guarded(operation_routes(self.serving), "operate", authorize),
                *guarded(console_routes(self.serving), "console", authorize),
            ],
            middleware=[*_cors(allowed_origins), guard, *(middleware or ())],
            exception_handlers=_EXCEPTION_HANDLERS | dict(exception_handlers or {}),
            lifespan=self._lifespan,
        )

    # -- workflows -------------------------------------------------------------------------------------------------

    def add_workflow(
        self, name: str, workflow: Workflow, additional_events: Sequence[type[Event]] | None = None
    ) -> None:
        """Serve a workflow at `/workflows/{name}/…`. Neither its name nor its runtime is changed.

        Args:
            name: In addresses, and as `workflow_name` of its handlers.
            workflow: An instance; its time-out and limits travel with the runs, workers have instances of their own.
            additional_events: Events that clients may send although no step's signature shows them, such as those a
                step waits for with `ctx.wait_for_event`.

        Raises:
            ConfigurationError, WorkflowValidationError: The name is not usable or taken, the workflow is not valid.
        """
        self.serving.add(Served(name, workflow, tuple(additional_events or ())))

    def get_workflows(self) -> dict[str, Workflow]:
        """The workflows by the name they are served under."""
        return {name: served.workflow for name, served in self.serving.workflows.items()}

    @property
    def is_protected(self) -> bool:
        """Whether a token or a hook stands between callers and runs."""
        return bool(self._tokens) or self._authorize is not None

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> WorkflowServer:
        """Be ready. Not needed: a mounted app, whose lifespan nobody runs, gets ready by itself."""
        self.serving.is_stopped = False
        return self

    async def stop(self) -> None:
        """End the streams and the connection they share. Runs go on: they are the workers'."""
        self.serving.stop()

    @asynccontextmanager
    async def contextmanager(self) -> AsyncIterator[WorkflowServer]:
        """Started within the block, stopped behind it."""
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self.contextmanager():
            yield

    async def serve(
        self, host: str = "localhost", port: int = 80, uvicorn_config: Mapping[str, Any] | None = None
    ) -> None:
        """Serve until the process is asked to end.

        When it is, open streams are cut after a few seconds, so that their readers come back to another replica.

        Args:
            host: The address to listen on; by default only this machine can reach it.
            port: The port.
            uvicorn_config: Further arguments of `uvicorn.Config`.

        Raises:
            ConfigurationError: Others could reach the server, and it has neither token nor `authorize`.
        """
        await uvicorn.Server(self.uvicorn_config(host, port, uvicorn_config)).serve()

    def uvicorn_config(self, host: str, port: int, more: Mapping[str, Any] | None = None) -> uvicorn.Config:
        """What `serve` serves with, checked. Arguments and errors as there."""
        given: dict[str, Any] = {
            "host": host,
            "port": port,
            "timeout_graceful_shutdown": GRACE_SECONDS,
            "server_header": False,
        }
        given |= dict(more or {})
        reachable = "fd" not in given and given.get("uds") is None and not is_loopback(str(given["host"]))
        if reachable and not self.is_protected:
            raise ConfigurationError(
                f"This server would be open to everybody who can reach {given['host']}: it has neither a token nor an "
                "authorizer. Give WorkflowServer(token=…) or authorize=…, or serve on localhost."
            )
        return uvicorn.Config(self.app, **given)

    def openapi_schema(self) -> dict[str, Any]:
        """The OpenAPI document, which is also at `/openapi.json`."""
        return openapi_document(self.app.routes)


def _tokens(token: str | Mapping[str, str] | None) -> dict[str, str]:
    tokens = {} if token is None else {"token": token} if isinstance(token, str) else dict(token)
    if (token is not None and not tokens) or not all(tokens.values()):
        raise ConfigurationError("A token of the server is empty: everybody would know it. Leave token out, or set it.")
    return tokens


def _cors(origins: Collection[str]) -> list[Middleware]:
    wrong = [origin for origin in origins if "://" not in origin or "*" in origin]
    if wrong:
        raise ConfigurationError(
            f"allowed_origins has {', '.join(map(repr, wrong))}: name origins like 'https://app.example'."
        )
    if not origins:
        return []
    # In front of the guard: a browser's preflight carries no token, and this answers nothing else.
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in origins],
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "last-event-id"],
        )
    ]


async def _http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


async def _not_found(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "Handler not found"}, 404)


async def _unavailable(_: Request, error: Exception) -> Response:
    logger.warning("a request was not answered: %s", error, extra={"action": "request_unavailable"})
    return JSONResponse({"detail": str(error)}, 503, headers={"retry-after": "1"})


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error(
        "a request failed: %s %s",
        request.method,
        request.url.path,
        exc_info=error,
        extra={"action": "request_failed"},
    )
    return JSONResponse({"detail": f"Internal server error: {type(error).__name__}"}, 500)


_EXCEPTION_HANDLERS: dict[Any, Any] = {
    HTTPException: _http_exception,
    RunNotFound: _not_found,
    StoreUnavailable: _unavailable,
    ConfigurationError: _unavailable,
    Exception: _unexpected,
}
