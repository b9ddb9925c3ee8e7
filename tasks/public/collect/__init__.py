"""`umbel.collect`: how many events of a fan-out a fan-in waits for."""

from umbel.tasks.steps.collect import All, Cardinality, Collect, Take

__all__ = ["All", "Cardinality", "Collect", "Take"]
