"""Who may do what: the hook that a deployment brings, asked on every route and again while a stream goes on."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ...orchestration.engine.sessions import handler_id_of

F = TypeVar("F", bound=Callable[..., Any])

#: Where the guard leaves who asks.
PRINCIPAL = "umbel.principal"
#: Where a route finds its `Access`.
ACCESS = "umbel.access"


@dataclass(frozen=True)
class Principal:
    """Who asks, as far as the request tells.

    Attributes:
        name: The name of the token that was shown; empty without one.
        credentials: What stands behind `Authorization: Bearer`, for an authorizer that knows tokens of its own.
        headers: The request's headers, names in lower case.
        client: The address the request came from; None if unknown.
    """

    name: str
    credentials: str | None
    headers: Mapping[str, str]
    client: str | None


#: `authorize(principal, action, run_id)`: whether this may be done. `run_id` is the handler's id, None where the action
#: is about no single run. A plain function is called on the event loop, so it must not block.
Authorize = Callable[[Principal, str, str | None], bool | Awaitable[bool]]


@dataclass(frozen=True)
class Access:
    """What one request may do.

    Attributes:
        principal: Who asks.
        authorize: The deployment's hook; None allows whatever has passed the guard.
    """

    principal: Principal
    authorize: Authorize | None

    async def allows(self, action: str, run_id: str | None) -> bool:
        """Whether the hook allows it."""
        if self.authorize is None:
            return True
        answer = self.authorize(self.principal, action, run_id)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def check(self, action: str, run_id: str | None) -> None:
        """Go on only if the hook allows it.

        Raises:
            HTTPException: 403, it does not.
        """
        if not await self.allows(action, run_id):
            about = "" if run_id is None else f" handler {run_id!r}"
            raise HTTPException(403, f"Not allowed: {action}{about}")


def acts(action: str) -> Callable[[F], F]:
    """Say what an endpoint does, in the words that `authorize` is asked with."""

    def mark(endpoint: F) -> F:
        endpoint.umbel_action = action  # type: ignore[attr-defined]
        return endpoint

    return mark


class _Asked:
    """A route's app behind the question whether its action is allowed."""

    def __init__(self, app: ASGIApp, action: str, authorize: Authorize | None) -> None:
        self._app, self._action, self._authorize = app, action, authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = Access(scope[PRINCIPAL], self._authorize)
        scope[ACCESS] = access
        params = scope.get("path_params", {})
        about = params.get("handler_id") or (handler_id_of(params["run_id"]) if "run_id" in params else None)
        await access.check(self._action, about)
        await self._app(scope, receive, send)


def guarded(routes: list[Route], otherwise: str, authorize: Authorize | None) -> list[Route]:
    """The routes, none of which answers before the hook has been asked.

    Args:
        routes: As the modules of the server make them.
        otherwise: The action of endpoints that name none.
        authorize: The deployment's hook.
    """
    for route in routes:
        action = getattr(route.endpoint, "umbel_action", otherwise)
        route.app = _Asked(route.app, action, authorize)
    return routes
