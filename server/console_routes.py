"""The console page and its data."""

from __future__ import annotations

from starlette.routing import Route

from .serving import Serving


def console_routes(serving: Serving) -> list[Route]:
    """What the console adds to the server."""
    return []
