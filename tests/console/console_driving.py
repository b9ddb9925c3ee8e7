"""What tests of the console share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Puts a run into Redis as the scripts leave it, and gives its id.
Keep = Callable[..., str]


def eventually(condition: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
    """Look again and again until the condition holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.02)
    return found
