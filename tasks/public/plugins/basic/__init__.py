"""`umbel.plugins.basic`: the names by which other libraries find the default runtime."""

from typing import Any

from umbel.tasks.client.runtime import Runtime, current_runtime

BasicRuntime = Runtime

__all__ = ["BasicRuntime"]


def __getattr__(name: str) -> Any:
    """`basic_runtime` is the current default runtime; it exists once a Redis is configured."""
    if name == "basic_runtime":
        return current_runtime()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
