"""`umbel.workflow`: the class a user derives from."""

from umbel.tasks.client.workflow import Workflow

__all__ = ["Workflow"]
