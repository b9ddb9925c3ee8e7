"""Checks resources before a run: whether configs can be read, and whether factories work."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..steps.decorators import StepConfig
from ..steps.signature import ResourceDefinition
from .config import ResourceConfig
from .resolution import ResourceManager
from .resource import descriptor, walk

Steps = Mapping[str, StepConfig]


def unreadable_configs(steps: Steps) -> Iterator[str]:
    """A complaint about each config that a step or factory needs and that cannot be read; all files are read again.

    Raises:
        ValueError: The dependencies of a resource are circular.
        WorkflowValidationError: A factory's parameters cannot be understood.
    """
    seen: set[Hashable] = set()
    for step, config in steps.items():
        for definition in config.resources:
            for way in walk(definition):
                resource, key = descriptor(way[-1]), descriptor(way[-1]).key(way[-1].type)
                if isinstance(resource, ResourceConfig) and key not in seen:
                    seen.add(key)
                    try:
                        resource.make(way[-1].type, {})
                    except (OSError, ValueError) as error:
                        yield f"{_place(step, way)}: {error}"


def failing_resources(steps: Steps, manager: ResourceManager) -> list[str]:
    """Create the resources of all steps and report those that fail. Blocks, even inside a running event loop.

    Runs on a temporary event loop of its own. Resources that belong to a loop are created for this one only.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="umbel-resources") as thread:
        return thread.submit(asyncio.run, _failing(steps, manager)).result()


async def _failing(steps: Steps, manager: ResourceManager) -> list[str]:
    problems = []
    for step, config in steps.items():
        for definition in config.resources:
            try:
                await _make(definition, manager)
            except Exception as error:  # a factory is arbitrary code
                notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
                problems.append(f"{_place(step, (definition,))}: {type(error).__name__}: {error}{notes}")
    return problems


async def _make(definition: ResourceDefinition, manager: ResourceManager) -> Any:
    return await manager.values([definition], asyncio.to_thread)


def _place(step: str, way: tuple[ResourceDefinition, ...]) -> str:
    names = [descriptor(definition).name.rpartition("<locals>.")[2] for definition in way]
    chain = f" ({' -> '.join(names)})" if len(names) > 1 else ""
    return f"In step {step!r}, parameter {way[0].name!r}{chain}"
