"""`umbel.plugins`: what executes runs. There is one kind, over Redis; `umbel.local()` starts one of its own."""

from umbel.tasks.runtime import Runtime, current_runtime

get_current_runtime = current_runtime

__all__ = ["Runtime", "get_current_runtime"]
