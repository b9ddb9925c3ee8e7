"""`WorkflowServer`: workflows of a deployment over HTTP, as an ASGI app and as a server process."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..orchestration.model.errors import ConfigurationError, RunNotFound, StoreUnavailable
from ..tasks.client.runtime import Runtime
from ..tasks.client.workflow import Workflow
from ..tasks.events.event import Event
from .console.page_files import page_paths
from .console.routes import console_routes
from .http.access import KNOWN_SECRETS, Authorize, guarded
from .http.connections import BACKLOG, ConnectionProtocol, most_connections
from .http.deployment import ServedDeployment, ServedWorkflow
from .http.guard import Guard, is_loopback
from .http.handler_routes import HandlerEndpoints
from .http.openapi import openapi_document
from .http.session_routes import SessionEndpoints
from .http.workflow_routes import WorkflowEndpoints
from .operations.routes import operation_routes
from .past.routes import PastEndpoints

logger = logging.getLogger("umbel.server")

#: Maximum size of a request body: the largest event that the default settings allow, and its envelope.
MAX_BODY_BYTES = (16 << 20) + (1 << 16)
#: How long open streams may continue after the server is asked to stop; then they are cut, and clients reconnect.
GRACE_SECONDS = 3


class WorkflowServer:
    """Serves workflows over HTTP; their runs live in Redis, and workers execute them.

    Any number of servers may serve one deployment. Each can answer for every run, and no run depends on one. Without a
    token or `authorize`, only requests to a loopback name are answered.

    Args:
        runtime: The deployment; by default the default runtime, looked up when first needed.
        middleware: Starlette middleware, inside the guard.
        exception_handlers: Starlette exception handlers, beside those that make `{"detail": …}`.
        token: Required of every request as `Authorization: Bearer …`; several as {name: token}.
        authorize: `authorize(principal, action, run_id)` is called for every request, and again while a stream is open.
        sse_heartbeat_interval: Seconds without an event after which a comment is sent; None for never.
        accept_context_api: Whether run requests may contain a `context` to start from.
        max_body_bytes: Maximum size of a request body; larger ones are refused unread.
        allowed_hosts: Accepted Host headers, without port. None: any with a token or `authorize`, else loopback names.
        allowed_origins: Origins whose pages may call this server (CORS).
        public_paths: Exact paths that need no token, such as "/health" for a load balancer.
        slow_reader_seconds: A stream whose client reads nothing for this long is closed.
        reauthorize_seconds: How often `authorize` is called again for an open stream.
        no_worker_seconds: How long `run` waits without a live worker for the workflow before it answers 503.

    Raises:
        ConfigurationError: A token is empty or an origin is invalid.
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
        self.deployment = ServedDeployment(
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
        handlers = HandlerEndpoints(self.deployment)
        routes = [
            *WorkflowEndpoints(self.deployment).routes(),
            *handlers.routes(),
            *SessionEndpoints(self.deployment, handlers).routes(),
            *PastEndpoints(self.deployment).routes(),
            *operation_routes(self.deployment),
            *console_routes(self.deployment),
        ]
        self.app = Starlette(
            routes=guarded(routes, authorize),
            middleware=[*_cors(allowed_origins, routes), guard, *(middleware or ())],
            exception_handlers=_EXCEPTION_HANDLERS | dict(exception_handlers or {}),
            lifespan=self._lifespan,
        )

    # -- workflows -------------------------------------------------------------------------------------------------

    def add_workflow(
        self, name: str, workflow: Workflow, additional_events: Sequence[type[Event]] | None = None
    ) -> None:
        """Serve a workflow at `/workflows/{name}/…`. Neither its name nor its runtime is changed.

        Args:
            name: Used in URLs, and as `workflow_name` of its handlers.
            workflow: An instance. Its timeout and limits are stored with each run; workers have their own instances.
            additional_events: Events that clients may send although they are in no step's signature, such as those
                a step waits for with `ctx.wait_for_event`.

        Raises:
            ConfigurationError, WorkflowValidationError: The name is invalid or taken, or the workflow is invalid.
        """
        self.deployment.add(ServedWorkflow(name, workflow, tuple(additional_events or ())))

    def get_workflows(self) -> dict[str, Workflow]:
        """The workflows by the name they are served under."""
        return {name: served.workflow for name, served in self.deployment.workflows.items()}

    @property
    def is_protected(self) -> bool:
        """Whether requests need a token or pass `authorize`."""
        return bool(self._tokens) or self._authorize is not None

    # -- lifetime ----------------------------------------------------------------------------------------------------

    async def start(self) -> WorkflowServer:
        """Accept requests again after `stop`. Optional: a mounted app, whose lifespan is not run, works without it."""
        self.deployment.is_stopped = False
        return self

    async def stop(self) -> None:
        """Close the streams and the connection they share. Runs continue in the workers."""
        self.deployment.stop()

    @asynccontextmanager
    async def contextmanager(self) -> AsyncIterator[WorkflowServer]:
        """Started within the block, stopped after it."""
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
        """Serve until the process is asked to stop.

        Then open streams are cut after a few seconds, so that their clients reconnect to another replica.

        Args:
            host: The address to listen on; by default only this machine can reach it.
            port: The port.
            uvicorn_config: Further arguments of `uvicorn.Config`.

        Raises:
            ConfigurationError: The address is not loopback, and neither token nor `authorize` is set.
        """
        await uvicorn.Server(self.uvicorn_config(host, port, uvicorn_config)).serve()

    def uvicorn_config(self, host: str, port: int, more: Mapping[str, Any] | None = None) -> uvicorn.Config:
        """The checked configuration that `serve` uses. Arguments and errors as there."""
        given: dict[str, Any] = {
            "host": host,
            "port": port,
            "timeout_graceful_shutdown": GRACE_SECONDS,
            "server_header": False,
            "http": ConnectionProtocol,
            "limit_concurrency": most_connections(),
            "backlog": BACKLOG,
        }
        given |= dict(more or {})
        reachable = "fd" not in given and given.get("uds") is None and not is_loopback(str(given["host"]))
        if reachable and not self.is_protected:
            raise ConfigurationError(
                f"This server would be open to everyone who can reach {given['host']}: it has neither a token nor an "
                "authorizer. Set WorkflowServer(token=…) or authorize=…, or serve on localhost."
            )
        if reachable and KNOWN_SECRETS & set(self._tokens.values()):
            raise ConfigurationError(
                f"This server would be open to everyone who can reach {given['host']}: its token is one that earlier "
                "examples contained. Make one with `openssl rand -hex 16` and set it as UMBEL_SERVER_TOKEN or token=…"
            )
        return uvicorn.Config(self.app, **given)

    def openapi_schema(self) -> dict[str, Any]:
        """The OpenAPI document, which is also at `/openapi.json`."""
        return openapi_document(self.app.routes)


def _tokens(token: str | Mapping[str, str] | None) -> dict[str, str]:
    given = {} if token is None else {"token": token} if isinstance(token, str) else token
    # A header's value has no space around it, but a file or a variable that holds a token often ends with a line break.
    tokens = {name: value.strip() for name, value in given.items()}
    if not all(value.isprintable() for value in tokens.values()):
        raise ConfigurationError("The server's token contains a line break or another character no header can carry.")
    if (token is not None and not tokens) or not all(tokens.values()):
        raise ConfigurationError("The server's token is empty. Omit it, or set a secret value.")
    return tokens


def _cors(origins: Collection[str], routes: Collection[Route]) -> list[Middleware]:
    wrong = [origin for origin in origins if "://" not in origin or "*" in origin]
    if wrong:
        raise ConfigurationError(
            f"Invalid allowed_origins: {', '.join(map(repr, wrong))}. Expected origins such as 'https://app.example'."
        )
    if not origins:
        return []
    # Before the guard: a browser's preflight request has no token, and this middleware answers only those.
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in origins],
            allow_methods=sorted({method for route in routes for method in route.methods or ()}),
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
            expose_headers=["link", "retry-after"],
        )
    ]


class _Detail(JSONResponse):
    """In ASCII: a message about a request may contain half a surrogate pair."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


async def _http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _Detail({"detail": error.detail}, error.status_code, headers=error.headers)


async def _has_left(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client has left


async def _not_found(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "Handler not found"}, 404)


async def _unavailable(_: Request, error: Exception) -> Response:
    logger.warning("request not answered: %s", error, extra={"action": "request_unavailable"})
    return JSONResponse({"detail": str(error)}, 503, headers={"retry-after": "1"})


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error(
        "request failed: %s %s",
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
    ClientDisconnect: _has_left,
    Exception: _unexpected,
}
