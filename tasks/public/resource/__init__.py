"""`umbel.resource`: what is injected into steps besides events."""

from umbel.tasks.resources.config import ResourceConfig
from umbel.tasks.resources.resolution import ResourceManager
from umbel.tasks.resources.resource import Resource
from umbel.tasks.steps.signature import ResourceDefinition

__all__ = ["Resource", "ResourceConfig", "ResourceDefinition", "ResourceManager"]
