"""`umbel.workflow`: the base class of workflows."""

from umbel.tasks.client.workflow import Workflow

__all__ = ["Workflow"]
