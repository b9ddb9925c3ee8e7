"""`umbel.context`: what a step can do besides returning an event, and the serializers of snapshots."""

from umbel.tasks.context.ctx import Context
from umbel.tasks.events.serializers import BaseSerializer, JsonSerializer, PickleSerializer

__all__ = ["BaseSerializer", "Context", "JsonSerializer", "PickleSerializer"]
