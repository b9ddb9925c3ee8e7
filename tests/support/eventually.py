"""Waiting for a condition: poll until it holds, or fail with its description on timeout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

#: Long enough for a slow machine: a timeout means that the condition never holds.
SECONDS = 90.0
#: Poll intervals grow, so that many waiting tests leave the processor to the code they wait for.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.05


def eventually(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll until the condition holds, and return its value; blocks the calling thread."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return found


async def eventually_async(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll until the condition holds, and return its value; the event loop keeps running."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return found
