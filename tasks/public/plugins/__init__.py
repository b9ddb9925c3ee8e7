"""`umbel.plugins`: runtimes, which execute runs. One kind exists, over Redis; `umbel.local()` starts a private one."""

from typing import Any

from umbel.tasks.client.runtime import Runtime, current_runtime

BasicRuntime = Runtime
get_current_runtime = current_runtime

__all__ = ["BasicRuntime", "Runtime", "get_current_runtime"]


def __getattr__(name: str) -> Any:
    """`basic_runtime` is the current default runtime; it exists once a Redis is configured."""
    if name == "basic_runtime":
        return current_runtime()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
