"""What operators look at."""

from __future__ import annotations

from starlette.routing import Route

from .serving import Serving


def operation_routes(serving: Serving) -> list[Route]:
    """What operators are given beside the protocol."""
    return []
