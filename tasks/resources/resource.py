"""`Resource`: what a step receives besides events, created by a factory in the process that executes the step.

This module only describes resources: their names, their dependencies, and whether those are circular. `resolution.py`
creates and keeps the values.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, cast

from ...orchestration.model.errors import WorkflowValidationError
from ..steps.annotations import caller_names, label, resolved_hints
from ..steps.signature import ResourceDefinition, ResourceMarker, injected


class ResourceDescriptor(ResourceMarker):
    """What `Resource` and `ResourceConfig` have in common, and all that is needed to create a value.

    Attributes:
        name: Its name in messages and for `ResourceManager.set`.
        cache: Whether its value is kept.
        is_async: Whether `make` returns a coroutine.
    """

    name: str
    cache: bool = True
    is_async: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All names that `ResourceManager.set` knows it by, the most exact first."""
        return (self.name,)

    @property
    def dependencies(self) -> tuple[ResourceDefinition, ...]:
        """The resources that must be created before it and passed to `make`."""
        return ()

    @property
    def needs_loop(self) -> bool:
        """Whether its value belongs to one event loop: its factory, or that of a dependency, is a coroutine function.

        Raises:
            ValueError: Its dependencies are circular.
        """
        return False

    def key(self, type: Any) -> Hashable:
        """The identity of its value: equal keys share one value.

        Args:
            type: The annotated type of the parameter.
        """
        raise NotImplementedError

    def make(self, type: Any, arguments: Mapping[str, Any]) -> Any:
        """Make the value.

        Args:
            type: The annotated type of the parameter.
            arguments: The values of `dependencies`, by parameter name.
        """
        raise NotImplementedError


class Resource(ResourceDescriptor):
    """In `Annotated[T, Resource(factory)]`: the parameter receives the value that the factory returns.

    The factory is called in the process that executes the step, when a step first needs it. The `ResourceManager` of
    the worker's workflow instance keeps its value across steps and runs, for every step that names the same factory.
    A plain factory is called in a thread, never on an event loop; its value is kept for the process. An `async def`
    factory is awaited on the loop of the run's async steps. Its value, and everything created from it, is kept for
    that loop, because it may hold objects that belong to a loop.

    A factory that raises fails the attempt of the step. The retry policy decides; the next attempt calls the factory
    again.

    Args:
        factory: A function, coroutine function, class or other callable. Its own parameters need a default or must be
            resources themselves.
        cache: Keep the value. False creates one for each execution of a step, shared within that execution.

    Raises:
        TypeError: `factory` is not callable.
    """

    def __init__(self, factory: Callable[..., Any], cache: bool = True) -> None:
        if not callable(factory):
            raise TypeError(f"Resource() takes a factory, a callable that makes the value; got {factory!r}.")
        function = _unwrapped(factory)
        self.factory = factory
        self.cache = cache
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(type(function), "__call__", None)  # noqa: B004  # the function is wanted, not whether there is one
        )
        # Read on first use: factories may depend on each other, and reading those at once would never end.
        self._dependencies: tuple[ResourceDefinition, ...] | None = None
        self._names: Mapping[str, Any] = {}
        if _parameters(factory):
            self._names = caller_names(_annotated(factory), sys._getframe(1))
        self._needs_loop: bool | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The factory's qualified name: with its module, without it, and without enclosing functions."""
        module = getattr(_unwrapped(self.factory), "__module__", None) or type(self.factory).__module__
        return tuple(dict.fromkeys([f"{module}.{self.name}", self.name, self.name.rpartition("<locals>.")[2]]))

    @property
    def dependencies(self) -> tuple[ResourceDefinition, ...]:
        """The factory's own resources.

        Raises:
            WorkflowValidationError: The factory has a parameter for which there is no value, or an annotation of it
                cannot be resolved.
        """
        names, found = self._names, self._dependencies  # in this order: another thread sets them the other way round
        if found is None:
            found = self._dependencies = _dependencies(self.factory, names)
            self._names = {}
        return found

    @property
    def needs_loop(self) -> bool:
        """See `ResourceDescriptor`."""
        if self._needs_loop is None:
            _refuse_circles(self, ())
            needed = [descriptor(definition).needs_loop for definition in self.dependencies]
            self._needs_loop = self.is_async or any(needed)
        return self._needs_loop

    def key(self, type: Any) -> Hashable:
        """The factory itself: two factories of one name are different."""
        try:
            hash(self.factory)
        except TypeError:
            return id(self.factory)
        return cast(Hashable, self.factory)

    def make(self, type: Any, arguments: Mapping[str, Any]) -> Any:
        """Call the factory.

        Raises:
            TypeError: A plain factory returned a coroutine.
        """
        made = self.factory(**arguments)
        if inspect.iscoroutine(made) and not self.is_async:
            made.close()
            raise TypeError(
                f"Resource factory {self.name} is a plain function but returned a coroutine. Use `async def`."
            )
        return made


def descriptor(definition: ResourceDefinition) -> ResourceDescriptor:
    """The `Resource` or `ResourceConfig` of a definition."""
    assert isinstance(definition.resource, ResourceDescriptor), f"{definition.resource!r} makes nothing"
    return definition.resource


def walk(
    definition: ResourceDefinition, above: tuple[ResourceDefinition, ...] = ()
) -> Iterator[tuple[ResourceDefinition, ...]]:
    """All dependencies of a resource: for each the path to it, itself last.

    Raises:
        ValueError: The dependencies are circular.
        WorkflowValidationError: As from `Resource.dependencies`.
    """
    resource = descriptor(definition)
    if not above:
        _refuse_circles(resource, ())
    way = (*above, definition)
    yield way
    for dependency in resource.dependencies:
        yield from walk(dependency, way)


def _refuse_circles(resource: ResourceDescriptor, above: tuple[ResourceDescriptor, ...]) -> None:
    if resource.key(None) in [other.key(None) for other in above]:
        names = " -> ".join(each.name.rpartition("<locals>.")[2] for each in (*above, resource))
        raise ValueError(f"Circular resource dependency detected: {names}")
    for dependency in resource.dependencies:
        _refuse_circles(descriptor(dependency), (*above, resource))


def _unwrapped(factory: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def _annotated(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose annotations describe the factory's parameters."""
    function = _unwrapped(factory)
    if isinstance(function, type):
        return cast(Callable[..., Any], function.__init__)  # type: ignore[misc]  # it is only read
    return function if inspect.isroutine(function) else type(function).__call__


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in parameters if parameter.kind not in variadic]


def _dependencies(factory: Callable[..., Any], names: Mapping[str, Any]) -> tuple[ResourceDefinition, ...]:
    parameters = _parameters(factory)
    if not parameters:
        return ()
    required = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
    function = _annotated(factory)
    try:
        hints = resolved_hints(function, names)
    except WorkflowValidationError:
        if required:
            raise
        return ()  # no parameter is required: a third-party class may import its types for type checkers only
    found = {
        name: injected(name, hints[name]) for name in (parameter.name for parameter in parameters) if name in hints
    }
    if unknown := [name for name in required if found.get(name) is None]:
        raise WorkflowValidationError(
            f"Resource factory {label(function)} takes {', '.join(unknown)}, for which no value exists. A factory "
            "takes Annotated[..., Resource(...)] and Annotated[..., ResourceConfig(...)]; give other parameters a "
            "default."
        )
    return tuple(definition for definition in found.values() if definition is not None)
