"""Waiting for a condition: look until it holds, and fail with its description when it does not in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

#: Long enough for a slow machine: a test that fails here has waited in vain.
SECONDS = 45.0


def eventually(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll until the condition holds, and return its value; blocks the calling thread."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)
    return found


async def eventually_async(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll until the condition holds, and return its value; the event loop runs on meanwhile."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.005)
    return found
