"""`ResourceManager`: makes resources when they are first asked for, once, and keeps them.

Steps ask on several event loops at the same time. The first one makes; the others wait for that outcome.
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
    """What came of a factory."""

    value: Any


class _Failure:
    """A factory raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _GivenUp:
    """Nothing came of it for a reason that concerns only who made it: cancelled, or out of time."""


_Outcome = _Value | _Failure | _GivenUp


class _Entry:
    """One kept value, or the making of it."""

    def __init__(self, resource: ResourceDescriptor) -> None:
        self.resource = resource
        self.outcome: concurrent.futures.Future[_Outcome] = concurrent.futures.Future()
        self.outcome.set_running_or_notify_cancel()  # who waits may be cancelled; that must not cancel the making


class _Shelf:
    """The values of one process, or of one event loop in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}

    def take(self, key: Hashable, resource: ResourceDescriptor) -> tuple[_Entry, bool]:
        """The entry, and whether the caller is to make its value."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                return entry, False
            entry = self._entries[key] = _Entry(resource)
            return entry, True

    def end(self, key: Hashable, entry: _Entry, outcome: _Outcome) -> None:
        """Say what came of making it; only a value is kept."""
        if not isinstance(outcome, _Value):
            with self._lock:
                del self._entries[key]
        entry.outcome.set_result(outcome)

    def made(self) -> Iterator[tuple[ResourceDescriptor, Any]]:
        """What is kept."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            if entry.outcome.done() and isinstance(outcome := entry.outcome.result(), _Value):
                yield entry.resource, outcome.value


@dataclass(slots=True)
class _Process:
    """What belongs to one process: values that any loop may use, and values of one loop each."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    shared: _Shelf = field(default_factory=_Shelf)
    of_loops: dict[asyncio.AbstractEventLoop, _Shelf] = field(default_factory=dict)

    def of_loop(self, loop: asyncio.AbstractEventLoop) -> _Shelf:
        """The shelf of a loop; those of closed loops go."""
        with self.lock:
            if loop not in self.of_loops:
                self.of_loops = {each: shelf for each, shelf in self.of_loops.items() if not each.is_closed()}
                self.of_loops[loop] = _Shelf()
            return self.of_loops[loop]


class _AtOnce:
    """Awaitable, and done already."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


class ResourceManager:
    """Keeps the resources of a workflow instance; several instances given the same manager share them.

    A worker's instance has one for as long as the worker lives. Values are kept for each process: a forked pool child
    makes its own and never uses what its parent made. What `set` was given is used as it is, in children, too.
    """

    def __init__(self) -> None:
        self._given: dict[str, Any] = {}
        # By process id: a fork copies this dict, and with it connections and locks that belong to the parent. They
        # stay referenced in the child, since closing them there would end them for the parent.
        self._processes: dict[int, _Process] = {}

    def set(self, name: str, val: Any) -> Awaitable[None]:
        """Use this value wherever a resource of that name is asked for; its factory is not called. For test doubles.

        It is done at once and may be awaited or not. Do it before the first step runs: what has been made of the
        resource by then is kept.

        Args:
            name: Of a factory, its `__qualname__`; what is in front of `<locals>.` may be left out. Two factories with
                that name both get the value, unless the module is put in front: `shop.clients.get_client`. Of a
                `ResourceConfig`, the file as written, with a dot and the selector if it has one.
            val: The value.
        """
        self._given = self._given | {name: val}
        return _AtOnce()

    async def get(self, resource: ResourceDescriptor, type: Any = Any) -> Any:
        """The value of a `Resource` or `ResourceConfig`, made if need be, on the running event loop.

        Args:
            resource: The same factory as in a step's annotation gives the same value.
            type: For a `ResourceConfig`: what it is to become.

        Raises:
            ValueError: The resource's dependencies go in a circle.
            Exception: Whatever the factory raises.
        """
        definition = ResourceDefinition(resource.name, type, resource)
        return (await self.values([definition], asyncio.to_thread))[definition.name]

    def get_all(self) -> dict[str, Any]:
        """What is there in this process, by name; a name that two factories share goes to one of them."""
        process = self._process()
        with process.lock:
            shelves = [process.shared, *process.of_loops.values()]
        made = [item for shelf in shelves for item in shelf.made()]
        return {resource.name: value for resource, value in made} | self._given

    async def values(self, definitions: Sequence[ResourceDefinition], call_plain: CallPlain) -> dict[str, Any]:
        """The values of `definitions` by name, made if need be; coroutines are awaited on the running loop.

        Args:
            definitions: The parameters of one step; resources that are not kept are made once for them together.
            call_plain: Calls plain factories.

        Raises:
            ValueError: The resources' dependencies go in a circle.
            Exception: Whatever a factory raises.
        """
        return await _Scope(self._given, self._process(), call_plain).values(definitions)

    def _process(self) -> _Process:
        # Neither a lock, which a fork may copy in its locked state; setdefault is atomic.
        pid = os.getpid()
        return self._processes.get(pid) or self._processes.setdefault(pid, _Process())


class _Scope:
    """One execution of a step: what is not kept is made once for it."""

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
        # Circles are refused here, before anything is made: in the middle, two of them would wait for each other.
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
                    # It has just failed for somebody else; asking again would make one outage as many waits as steps.
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
