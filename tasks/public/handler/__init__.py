"""`umbel.handler`: the caller's view of a run."""

from umbel.tasks.client.handler import WorkflowHandler

__all__ = ["WorkflowHandler"]
