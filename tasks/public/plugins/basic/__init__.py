"""`umbel.plugins.basic`: the names by which code of other libraries finds the default runtime."""

from typing import Any

from umbel.tasks.client.runtime import Runtime, current_runtime

BasicRuntime = Runtime

__all__ = ["BasicRuntime"]


def __getattr__(name: str) -> Any:
    """`basic_runtime` is the default runtime of the moment: it exists once there is a Redis."""
    if name == "basic_runtime":
        return current_runtime()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
