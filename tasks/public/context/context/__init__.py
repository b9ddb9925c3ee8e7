"""`umbel.context.context`: where LlamaIndex Workflows keeps `Context`."""

from umbel.tasks.context import Context

__all__ = ["Context"]
