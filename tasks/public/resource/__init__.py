"""`umbel.resource`: what steps are given besides events."""

from umbel.tasks.resource_config import ResourceConfig
from umbel.tasks.resource_manager import ResourceManager
from umbel.tasks.resources import Resource
from umbel.tasks.signature import ResourceDefinition

__all__ = ["Resource", "ResourceConfig", "ResourceDefinition", "ResourceManager"]
