"""The nodes of resources and configurations in a workflow's representation."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Hashable
from typing import Any

from pydantic import BaseModel, PydanticUserError

from ...orchestration.model.errors import UmbelError
from ..resources.config import ResourceConfig
from ..resources.resource import Resource, ResourceDescriptor, descriptor
from ..steps.signature import ResourceDefinition
from .representation import WorkflowGraphNode, WorkflowResourceConfigNode, WorkflowResourceNode


def resource_node(definition: ResourceDefinition, *, with_value: bool) -> WorkflowGraphNode:
    """The node of an injected parameter. Factories are not called.

    Args:
        definition: The parameter.
        with_value: Read the file of a `ResourceConfig`, if it is one and can be read.
    """
    resource, type_name = descriptor(definition), _type_name(definition.type)
    if isinstance(resource, ResourceConfig):
        return WorkflowResourceConfigNode(
            id=f"resource_config_{_digest(resource.config_file, resource.path_selector or '')}",
            label=resource.label or type_name or resource.config_file,
            type_name=type_name,
            config_file=resource.config_file,
            path_selector=resource.path_selector,
            config_schema=model_schema(definition.type),
            config_value=_value(resource, definition.type) if with_value else None,
            description=resource.description,
        )
    factory = resource.factory if isinstance(resource, Resource) else type(resource)
    file, line = _source(factory)
    return WorkflowResourceNode(
        id=f"resource_{_digest(resource.name, file or 'unknown')}",
        label=type_name or resource.name,
        type_name=type_name,
        getter_name=resource.name,
        source_file=file,
        source_line=line,
        description=inspect.getdoc(factory),
    )


def resource_key(definition: ResourceDefinition) -> Hashable:
    """The key of a resource: parameters with the same key receive the same value."""
    return descriptor(definition).key(definition.type)


def needed_by(definition: ResourceDefinition) -> tuple[ResourceDefinition, ...]:
    """The resources that are created before it; empty if its factory is invalid, which validation reports."""
    try:
        return descriptor(definition).dependencies
    except UmbelError:
        return ()


def model_schema(cls: Any) -> dict[str, Any] | None:
    """The JSON schema of a pydantic model; None for anything else, or if a field has no schema."""
    if not isinstance(cls, type) or not issubclass(cls, BaseModel):
        return None
    try:
        return cls.model_json_schema()
    except PydanticUserError:
        return None


def _value(resource: ResourceDescriptor, type: Any) -> dict[str, Any] | None:
    try:
        made = resource.make(type, {})
    except (OSError, ValueError):
        return None
    return made.model_dump(mode="json") if isinstance(made, BaseModel) else None


def _digest(*parts: str) -> str:
    return hashlib.sha256(":".join(parts).encode()).hexdigest()[:12]


def _type_name(annotation: Any) -> str | None:
    return None if annotation is None else getattr(annotation, "__name__", str(annotation))


def _source(factory: Any) -> tuple[str | None, int | None]:
    try:
        return inspect.getsourcefile(factory), inspect.getsourcelines(factory)[1]
    except (OSError, TypeError):  # built in, defined in a console, or an instance
        return None, None
