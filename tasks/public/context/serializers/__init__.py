"""`umbel.context.serializers`: how a snapshot of a context writes values as text."""

from umbel.tasks.events.serializers import BaseSerializer, JsonPickleSerializer, JsonSerializer, PickleSerializer

__all__ = ["BaseSerializer", "JsonPickleSerializer", "JsonSerializer", "PickleSerializer"]
