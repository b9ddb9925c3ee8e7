"""`umbel.context`: what a step may do besides returning an event."""

from umbel.tasks.context import Context

__all__ = ["Context"]
