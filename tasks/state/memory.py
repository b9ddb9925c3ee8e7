"""A state in this process only: for a context that has not run yet, and for programs that do not use Redis."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, Self, TypeVar, cast

from pydantic import BaseModel, ValidationError

from ..events.serializers import BaseSerializer
from .fields import EditBlock, StateFields, check_replaceable, default_state, merge, refuse_inside_edit
from .paths import Absent, assign, follow, split_path
from .snapshot import dump_state, load_state

StateT = TypeVar("StateT", bound=BaseModel)


class InMemoryStateStore(Generic[StateT]):
    """A state kept in memory, with the methods of `StateStore`.

    It holds any Python values by reference: what `get` returns, and the values inside the copy that `get_state`
    returns, are the state's own objects. Use `set` or `edit_state` for changes nevertheless: in a step the state is in
    Redis, and everything is a copy.

    Belongs to one event loop at a time.
    """

    def __init__(self, initial_state: StateT) -> None:
        """Args:
        initial_state: The initial state; it is copied, but the values in it are not.
        """
        self._begin(type(initial_state), _shallow_copy(initial_state))

    def _begin(self, state_class: type[StateT], state: StateT | None) -> None:
        self._class = state_class
        self._state = state
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of_class(cls, state_class: type[StateT]) -> InMemoryStateStore[StateT]:
        """A store that begins with the defaults of a class.

        If a field has no default, the store has no state until `set_state` is called; until then most other methods
        raise `ValueError`.
        """
        try:
            return cls(state_class())
        except ValidationError:
            store = cls.__new__(cls)
            store._begin(state_class, None)
            return store

    @property
    def state_type(self) -> type[StateT]:
        """The class of the state."""
        return self._class

    # -- reading ---------------------------------------------------------------------------------------------------

    async def get(self, path: str, default: Any = ...) -> Any:
        """The value at a path, without the changes of an open edit.

        Args:
            path: Dotted; `""` is the whole state.
            default: What to return if the path does not exist.

        Raises:
            ValueError: The path does not exist and no default was given.
        """
        segments = split_path(path)
        if not segments:
            return await self.get_state()
        try:
            return follow(self.current_state(), segments)
        except Absent:
            if default is ...:
                raise ValueError(f"Path {path!r} not found in state") from None
            return default

    async def get_state(self) -> StateT:
        """The whole state, as a copy. The values in it are not copied."""
        return _shallow_copy(self.current_state())

    def current_state(self) -> StateT:
        """The state itself, without waiting for writers: for code that is not on an event loop.

        Raises:
            ValueError: There is no state, and a field of its class has no default.
        """
        return default_state(self._class) if self._state is None else self._state

    # -- writing ---------------------------------------------------------------------------------------------------

    async def set(self, path: str, value: Any) -> None:
        """Set the value at a path, creating a dict for each missing segment before the last.

        Raises:
            ValueError: The path is empty, a value on it cannot hold the next segment, or a typed field refuses the
                value.
            RuntimeError: Called inside an `edit_state` block for the same state.
        """
        refuse_inside_edit(id(self))
        segments = split_path(path)
        if not segments or not segments[0]:
            raise ValueError(f"Path {path!r} names no key. To replace the whole state call set_state().")
        async with self._writing():
            assign(self.current_state(), segments, value)

    async def set_state(self, state: BaseModel) -> None:
        """Replace the whole state. A state of a parent class replaces only the fields it has.

        Raises:
            ValueError: The new state is of an unrelated class.
            RuntimeError: Called inside an `edit_state` block for the same state.
        """
        refuse_inside_edit(id(self))
        async with self._writing():
            if check_replaceable(self._class, state):
                new = _shallow_copy(cast(StateT, state))
            else:
                new = _shallow_copy(self.current_state())
                merge(new, state)
            self._replace(new)

    async def clear(self) -> None:
        """Reset the state to the defaults of its class.

        Raises:
            ValueError: A field has no default.
            RuntimeError: Called inside an `edit_state` block for the same state.
        """
        refuse_inside_edit(id(self))
        async with self._writing():
            self._replace(default_state(self._class))

    @asynccontextmanager
    async def edit_state(self) -> AsyncIterator[StateT]:
        """Change the state while nobody else does: `async with store.edit_state() as state: state.n += 1`.

        The block gets a copy that shares nothing with the state, except what cannot be copied and fields with
        `exclude=True`. At the end of the block the copy becomes the state; if the block raises, nothing changes. Until
        then readers see the old state and writers wait.

        Raises:
            RuntimeError: Called inside such a block for the same state.
        """
        refuse_inside_edit(id(self))
        async with self._writing():
            edited = isolated_copy(self.current_state())
            block = EditBlock(id(self))
            block.enter()
            try:
                yield edited
            finally:
                block.open = False
            self._replace(edited)

    # -- other forms -----------------------------------------------------------------------------------------------

    def to_dict(self, serializer: BaseSerializer | None = None) -> dict[str, Any]:
        """The state in the form of a snapshot; `{}` if there is no state.

        If the key `memory` of a `DictState` cannot be written, it is left out with an `UnserializableKeyWarning`.

        Args:
            serializer: Writes the values; None is JSON.

        Raises:
            ValueError: A value cannot be written; the message names its key.
        """
        return {} if self._state is None else dump_state(self._state, serializer)

    @classmethod
    def from_dict(cls, serialized_state: Mapping[str, Any], serializer: BaseSerializer | None = None) -> Self:
        """A store made from the result of `to_dict`. Empty data is an empty `DictState`.

        Raises:
            ContextSerdeError: The data are damaged, or the serializer cannot read them.
        """
        return cls(cast(StateT, load_state(serialized_state, serializer)))

    def to_fields(self, fields: StateFields[Any]) -> dict[str, bytes]:
        """The state as it is stored in Redis: top-level key -> JSON; empty if there is no state.

        Args:
            fields: For the class that the workflow's steps declare; the state may be of another class.

        Raises:
            UnserializableValue: A value is neither JSON nor a pydantic model; the message names its key.
            PayloadTooLarge: A value is larger than the settings allow; the message names its key.
            pydantic.ValidationError: A field holds a value that its type forbids.
        """
        return {} if self._state is None else dict(fields.whole(self._state, "set_state").set)

    # --------------------------------------------------------------------------------------------------------------

    def _replace(self, state: StateT) -> None:
        self._class, self._state = type(state), state

    def _writing(self) -> asyncio.Lock:
        """The lock that one writer at a time holds. A lock belongs to the loop on which it was first awaited."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._lock.locked():
                raise RuntimeError(
                    "this state is being edited on another event loop; use an InMemoryStateStore on one loop at a time"
                )
            self._lock, self._loop = asyncio.Lock(), loop
        return self._lock


def _shallow_copy(state: StateT) -> StateT:
    # Not state.model_copy(): a DictState may have a key with that name.
    return BaseModel.model_copy(state)


def isolated_copy(state: StateT) -> StateT:
    """A copy that shares nothing that can be copied.

    Objects that cannot be copied (a client, a lock) and fields with `exclude=True` are shared; the dicts, lists and
    models around them are still copied.
    """
    excluded = (name for name, field in type(state).model_fields.items() if field.exclude)
    shared = {id(value): value for value in (getattr(state, name, None) for name in excluded)}
    copied: StateT = _Copying(shared).copied(state)
    return copied


class _Copying:
    def __init__(self, shared: dict[int, Any]) -> None:
        self._twins = dict(shared)

    def copied(self, value: Any) -> Any:
        if id(value) in self._twins:
            return self._twins[id(value)]
        try:
            # With a new memo each time: the memo of a failed copy contains half-filled dicts.
            twin = copy.deepcopy(value, dict(self._twins))
        except Exception:  # a user's __deepcopy__ may raise anything
            return self._by_parts(value)
        self._twins[id(value)] = twin
        return twin

    def _by_parts(self, value: Any) -> Any:
        """Copy containers and share what cannot be copied. Twins are registered before they are filled, for cycles."""
        if type(value) is dict:
            twin: Any = {}
            self._twins[id(value)] = twin
            twin.update((key, self.copied(item)) for key, item in value.items())
        elif type(value) is list:
            twin = []
            self._twins[id(value)] = twin
            twin.extend(self.copied(item) for item in value)
        elif type(value) is tuple:
            twin = tuple(self.copied(item) for item in value)
        elif isinstance(value, BaseModel):
            twin = BaseModel.model_copy(value)
            self._twins[id(value)] = twin
            for values in (twin.__dict__, twin.__pydantic_extra__ or {}, twin.__pydantic_private__ or {}):
                for key in list(values):
                    values[key] = self.copied(values[key])
        else:
            twin = value
        return twin
