"""`ResourceManager`: creates resources when they are first needed, once, and keeps them.

Steps ask on several event loops at the same time. The first one creates the value; the others wait for the outcome.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ...orchestration.model.errors import StepTimeoutError
from ..steps.signature import ResourceDefinition
from .resource import ResourceDescriptor, descriptor

T = TypeVar("T")


#: Calls a plain factory: in a thread, or wherever plain functions belong.
CallPlain = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Value:
    """The value that a factory returned."""

    value: Any


class _Failure:
    """A factory raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _GivenUp:
    """Creation ended for a reason that concerns only its caller: cancelled, or timed out."""


_Outcome = _Value | _Failure | _GivenUp


class _Entry:
    """One kept value, finished or being created."""

    def __init__(self, resource: ResourceDescriptor) -> None:
        self.resource = resource
        self.outcome: concurrent.futures.Future[_Outcome] = concurrent.futures.Future()
        self.outcome.set_running_or_notify_cancel()  # cancelling a waiter must not cancel the creation


class _Shelf:
    """The values of one process, or of one event loop in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}

    def take(self, key: Hashable, resource: ResourceDescriptor) -> tuple[_Entry, bool]:
        """The entry, and whether the caller has to create its value."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                return entry, False
            entry = self._entries[key] = _Entry(resource)
            return entry, True

    def end(self, key: Hashable, entry: _Entry, outcome: _Outcome) -> None:
        """Report the outcome of creating it; only a value is kept."""
        if not isinstance(outcome, _Value):
            with self._lock:
                del self._entries[key]
        entry.outcome.set_result(outcome)

    def made(self) -> Iterator[tuple[ResourceDescriptor, Any]]:
        """The values that are kept."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            if entry.outcome.done() and isinstance(outcome := entry.outcome.result(), _Value):
                yield entry.resource, outcome.value


@dataclass(slots=True)
class _Process:
    """The values of one process: those that any loop may use, and those of each loop."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    shared: _Shelf = field(default_factory=_Shelf)
    of_loops: dict[asyncio.AbstractEventLoop, _Shelf] = field(default_factory=dict)

    def of_loop(self, loop: asyncio.AbstractEventLoop) -> _Shelf:
        """The values of a loop; those of closed loops are removed."""
        with self.lock:
            if loop not in self.of_loops:
                self.of_loops = {each: shelf for each, shelf in self.of_loops.items() if not each.is_closed()}
                self.of_loops[loop] = _Shelf()
            return self.of_loops[loop]


class _AtOnce:
    """An awaitable that is already done."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


class ResourceManager:
    """Keeps the resources of a workflow instance; instances that get the same manager share them.

    A worker's instance has one manager for the lifetime of the worker. Values are kept per process: a forked pool child
    creates its own and never uses those of its parent. Values passed to `set` are used as they are, in children too.
    """

    def __init__(self) -> None:
        self._given: dict[str, Any] = {}
        # By process id: a fork copies this dict, and with it connections and locks that belong to the parent. They
        # stay referenced in the child, since closing them there would end them for the parent.
        self._processes: dict[int, _Process] = {}

    def set(self, name: str, val: Any) -> Awaitable[None]:
        """Use this value for every resource of that name; its factory is not called. For test doubles.

        Takes effect at once; awaiting is optional. Call it before the first step runs: values created with the resource
        before that are kept.

        Args:
            name: For a factory, its `__qualname__`, without the part up to `<locals>.` if you like. Two factories with
                that name both get the value, unless the name includes the module: `shop.clients.get_client`. For a
                `ResourceConfig`, the file as written, plus a dot and the selector if it has one.
            val: The value.
        """
        self._given = self._given | {name: val}
        return _AtOnce()

    async def get(self, resource: ResourceDescriptor, type: Any = Any) -> Any:
        """The value of a `Resource` or `ResourceConfig`, created on the running event loop if necessary.

        Args:
            resource: The same factory as in a step's annotation gives the same value.
            type: For a `ResourceConfig`, the type that it is validated as.

        Raises:
            ValueError: The resource's dependencies are circular.
            Exception: Whatever the factory raises.
        """
        definition = ResourceDefinition(resource.name, type, resource)
        return (await self.values([definition], asyncio.to_thread))[definition.name]

    def get_all(self) -> dict[str, Any]:
        """The values in this process, by name; if two factories share a name, one of them has it."""
        process = self._process()
        with process.lock:
            shelves = [process.shared, *process.of_loops.values()]
        made = [item for shelf in shelves for item in shelf.made()]
        return {resource.name: value for resource, value in made} | self._given

    async def values(self, definitions: Sequence[ResourceDefinition], call_plain: CallPlain) -> dict[str, Any]:
        """The values of `definitions` by name, created if necessary; coroutines are awaited on the running loop.

        Args:
            definitions: The parameters of one step; resources that are not kept are created once for all of them.
            call_plain: Calls plain factories.

        Raises:
            ValueError: The resources' dependencies are circular.
            Exception: Whatever a factory raises.
        """
        return await _Scope(self._given, self._process(), call_plain).values(definitions)

    def _process(self) -> _Process:
        # Not a lock, which a fork may copy in its locked state; setdefault is atomic.
        pid = os.getpid()
        return self._processes.get(pid) or self._processes.setdefault(pid, _Process())


class _Scope:
    """One execution of a step: resources that are not kept are created once for it."""

    def __init__(self, given: dict[str, Any], process: _Process, call_plain: CallPlain) -> None:
        self._given, self._process, self._call_plain = given, process, call_plain
        self._own: dict[Hashable, Any] = {}

    async def values(self, definitions: Sequence[ResourceDefinition]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for definition in definitions:
            found[definition.name] = await self._value(definition)
        return found

    async def _value(self, definition: ResourceDefinition) -> Any:
        resource = descriptor(definition)
        for name in resource.names if self._given else ():
            if name in self._given:
                return self._given[name]
        # Circles are refused here, before anything is created: otherwise two creations would wait for each other.
        needs_loop = resource.needs_loop
        key = resource.key(definition.type)
        if not resource.cache:
            if key not in self._own:
                self._own[key] = await self._made(definition)
            return self._own[key]
        shelf = self._process.of_loop(asyncio.get_running_loop()) if needs_loop else self._process.shared
        while True:
            entry, is_mine = shelf.take(key, resource)
            if is_mine:
                return await self._made_for_all(definition, shelf, key, entry)
            if not entry.outcome.done():
                await asyncio.wrap_future(entry.outcome)
            match entry.outcome.result():
                case _Value(value):
                    return value
                case _Failure() as failure:
                    # It has just failed for another step; trying again would make each step wait for the same outage.
                    raise failure.error

    async def _made_for_all(self, definition: ResourceDefinition, shelf: _Shelf, key: Hashable, entry: _Entry) -> Any:
        outcome: _Outcome = _GivenUp()
        try:
            value = await self._made(definition)
            outcome = _Value(value)
        except (StepTimeoutError, asyncio.CancelledError):
            raise
        except Exception as error:
            outcome = _Failure(error)
            raise
        finally:
            shelf.end(key, entry, outcome)
        return value

    async def _made(self, definition: ResourceDefinition) -> Any:
        resource = descriptor(definition)
        arguments = await self.values(resource.dependencies)
        try:
            if resource.is_async:
                return await resource.make(definition.type, arguments)
            return await self._call_plain(partial(resource.make, definition.type, arguments))
        except Exception as error:
            error.add_note(f"raised while creating resource {resource.name}")
            raise
