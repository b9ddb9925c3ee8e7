"""`umbel.context.context`: where LlamaIndex Workflows keeps `Context`."""

from umbel.tasks.context.ctx import Context

__all__ = ["Context"]
