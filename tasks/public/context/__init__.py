"""`umbel.context`: what a step may do besides returning an event, and how snapshots are written."""

from umbel.tasks.context import Context
from umbel.tasks.serializers import BaseSerializer, JsonSerializer, PickleSerializer

__all__ = ["BaseSerializer", "Context", "JsonSerializer", "PickleSerializer"]
