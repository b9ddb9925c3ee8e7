"""`umbel.workflow`: the class a user derives from."""

from umbel.tasks.workflow import Workflow

__all__ = ["Workflow"]
