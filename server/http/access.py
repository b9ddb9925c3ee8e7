"""Authorization: the `authorize` hook, called for every request and again while a stream is open."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ...orchestration.sessions.names import session_of

F = TypeVar("F", bound=Callable[..., Any])

#: Secrets from earlier examples, which everybody knows.
KNOWN_SECRETS = frozenset({"umbel"})
#: Key in the scope under which the guard stores the principal.
PRINCIPAL = "umbel.principal"
#: Key in the scope under which a route finds its `Access`.
ACCESS = "umbel.access"


@dataclass(frozen=True)
class Principal:
    """The caller of a request.

    Attributes:
        name: The name of the token that was sent; empty without one.
        credentials: The value of `Authorization: Bearer`, for an authorizer with its own tokens.
        headers: The request's headers, names in lower case.
        client: The address the request came from; None if unknown.
    """

    name: str
    credentials: str | None
    headers: Mapping[str, str]
    client: str | None


#: What the hook is asked to allow; `docs/guides/http-server.md` lists the actions.
Action = Literal[
    "page",
    "health",
    "ready",
    "describe",
    "list",
    "start",
    "read",
    "stream",
    "send",
    "cancel",
    "purge",
    "change",
    "retry",
    "overview",
    "metrics",
    "pause",
]
#: Actions that show or change the deployment as a whole; their `run_id` is None.
DEPLOYMENT: frozenset[Action] = frozenset(("overview", "metrics", "pause"))

#: `authorize(principal, action, run_id)`: whether the action is allowed. `run_id` is the handler's id or the session's
#: name, None if the action concerns no single run. A plain function is called on the event loop, so it must not block.
Authorize = Callable[[Principal, str, str | None], bool | Awaitable[bool]]


@dataclass(frozen=True)
class Access:
    """The permissions of one request.

    Attributes:
        principal: The caller.
        authorize: The hook; None allows every request that has passed the guard.
    """

    principal: Principal
    authorize: Authorize | None

    async def allows(self, action: Action, run_id: str | None) -> bool:
        """Whether the hook allows it."""
        if self.authorize is None:
            return True
        answer = self.authorize(self.principal, action, run_id)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    def readable(self) -> Callable[[str], Awaitable[bool]] | None:
        """Which runs a list may show, by run id; None if all."""
        if self.authorize is None:
            return None
        return lambda run_id: self.allows("read", session_of(run_id))

    async def check(self, action: Action, run_id: str | None) -> None:
        """Require that the hook allows it.

        Raises:
            HTTPException: 403, it does not.
        """
        if not await self.allows(action, run_id):
            about = "" if run_id is None else f" handler {run_id!r}"
            raise HTTPException(403, f"Not allowed: {action}{about}")


def acts(action: Action) -> Callable[[F], F]:
    """Declare an endpoint's action, the one passed to `authorize`."""

    def mark(endpoint: F) -> F:
        endpoint.umbel_action = action  # type: ignore[attr-defined]
        return endpoint

    return mark


class _AuthorizedRoute:
    """A route's app, called only if its action is allowed."""

    def __init__(self, app: ASGIApp, action: Action, authorize: Authorize | None) -> None:
        self._app, self._action, self._authorize = app, action, authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = Access(scope[PRINCIPAL], self._authorize)
        scope[ACCESS] = access
        params = scope.get("path_params", {})
        about = params.get("handler_id") or params.get("session_id")
        if about is None and "run_id" in params:
            about = session_of(params["run_id"])
        await access.check(self._action, about)
        await self._app(scope, receive, send)


def guarded(routes: list[Route], authorize: Authorize | None) -> list[Route]:
    """The routes, each answering only after the hook has allowed its action, which `acts` declares."""
    for route in routes:
        route.app = _AuthorizedRoute(route.app, route.endpoint.umbel_action, authorize)  # type: ignore[attr-defined]
    return routes
