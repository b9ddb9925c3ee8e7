"""`umbel.types`: type variables for code that is generic over workflows."""

from umbel.tasks.events.event import RunResultT, StopEventT

__all__ = ["RunResultT", "StopEventT"]
