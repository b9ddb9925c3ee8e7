"""`ctx.store`: the state that all steps of a run share, wherever they execute.

There are two interfaces: `StateStore` for `async def` steps and callers, whose methods are awaited, and
`SyncStateStore` for plain `def` steps, whose methods block. The operations are in `access.py`, the stored form in
`fields.py` and `orchestration/state/redis_hash.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from ...orchestration.state.redis_hash import StateHash
from ..events.serializers import BaseSerializer
from ..values.dict_like_model import DictState
from .access import StateAccess, StateBusy, StateEditLost
from .fields import StateMismatch
from .snapshot import dump_stored_state

__all__ = ["DictState", "StateBusy", "StateEditLost", "StateMismatch", "StateStore", "SyncStateStore"]

StateT = TypeVar("StateT", bound=BaseModel)
T = TypeVar("T")


class _Store(Generic[StateT]):
    def __init__(self, access: StateAccess[StateT]) -> None:
        self._access = access

    @property
    def hash(self) -> StateHash:
        """The state in Redis."""
        return self._access.hash

    def to_dict(self, serializer: BaseSerializer | None = None) -> dict[str, Any]:
        """The state in the form of a snapshot, as of one instant; `InMemoryStateStore.from_dict` reads it.

        Blocks for one request to Redis, even on an event loop.

        Args:
            serializer: Writes the values; None is JSON.

        Raises:
            ValueError: The serializer cannot write a value; the message names its key.
            StoreUnavailable: Redis did not answer.
        """
        state = self._access.unblocked
        raw = state.store.connection.portal.call(state.read_all())
        return dump_stored_state(self._access.fields, raw, serializer)


class StateStore(_Store[StateT]):
    """The state of a run, for `async def` steps and callers. Works on any event loop and never blocks it.

    Paths are dotted: `cart.items.0.price`. The first segment is a top-level key of a `DictState` or a field of the
    state model. Values are JSON or pydantic models; live objects (clients, connections) belong in a `Resource`.

    *Promise:* a write is applied once, with an entry in the run's journal, or not at all. An attempt that has ended,
    has lost its work to another process, belongs to an ended run, or meets a Redis that was set back and lacks what it
    wrote before can no longer write (`RunClosed`). The writes of an attempt that fails or dies remain: the next
    execution of the step finds them.

    Every method that writes may raise:

    * `RunClosed`: see above.
    * `StateBusy`: one `edit_state` block stayed open for longer than a minute.
    * `UnserializableValue`, `PayloadTooLarge`: a value cannot be stored; the message names the key.
    * `RuntimeError`: called inside an `edit_state` block for the same state.
    * `StoreUnavailable`: Redis did not answer; whether the write was applied is not known.
    """

    async def get(self, path: str, default: Any = ...) -> Any:
        """The value at a path, as a copy. Never waits for writers, and does not see the changes of an open edit.

        Args:
            path: Dotted; `""` is the whole state.
            default: What to return if the path does not exist.

        Raises:
            ValueError: The path does not exist and no default was given.
        """
        return self._access.found(path, await self._access.read(path), default)

    async def set(self, path: str, value: Any) -> None:
        """Set the value at a path, creating a dict for each missing segment before the last.

        *Promise:* atomic across processes; if two writers set different paths below one key, neither write is lost. To
        compute a new value from the old one, use `edit_state`.

        Raises:
            ValueError: The path is empty, a value on it cannot hold the next segment, or a typed field refuses the
                value.
        """
        await self._access.set(path, value)

    async def get_state(self) -> StateT:
        """The whole state as of one instant, as a copy: changes to it are not stored."""
        return cast(StateT, await self.get(""))

    async def set_state(self, state: BaseModel) -> None:
        """Replace the whole state. A state of a parent class replaces only the fields it has.

        Raises:
            ValueError: The new state is of an unrelated class.
        """
        await self._access.set_state(state)

    async def clear(self) -> None:
        """Reset the state to the defaults of its class.

        Raises:
            ValueError: A field has no default.
        """
        await self._access.clear()

    @asynccontextmanager
    async def edit_state(self) -> AsyncIterator[StateT]:
        """Change the state while nobody else does: `async with ctx.store.edit_state() as state: state.n += 1`.

        The block gets a copy. At the end of the block all differences are written at once; if it raises, nothing is
        written. Until then readers see the old state.

        *Promise:* atomic across processes. A process that dies in the block has changed nothing and keeps other
        writers waiting for a few seconds. Waiting writers of one process are served first come, first served.

        Raises:
            StateEditLost: This process or Redis stalled so long that the lock expired and others changed the state;
                nothing was written.
        """
        edit = await self._access.open_edit()
        try:
            yield edit.begin()
            change = edit.change()
        except GeneratorExit:  # the coroutine was dropped in the block and can no longer await anything
            self._access.forget_edit(edit)
            raise
        except BaseException:
            await self._access.abandon_edit(edit)
            raise
        await self._access.close_edit(edit, change)


class SyncStateStore(_Store[StateT]):
    """The state of a run, for plain `def` steps: as `StateStore`, with methods that block until they are done.

    They wait for the loop of the store's connection and must not be called on that loop (`RuntimeError`).
    Validators and serializers of the state's classes run in the calling thread.
    """

    def _do(self, operation: Coroutine[Any, Any, T]) -> T:
        return self._access.portal.call(operation)

    def _serve(self, operation: Callable[[StateAccess[StateT]], Coroutine[Any, Any, None]]) -> None:
        """Execute an operation that calls user code."""
        self._access.portal.serve(lambda caller: operation(self._access.calling(caller.run)))

    def get(self, path: str, default: Any = ...) -> Any:
        """See `StateStore.get`."""
        return self._access.found(path, self._do(self._access.read(path)), default)

    def set(self, path: str, value: Any) -> None:
        """See `StateStore.set`."""
        self._serve(lambda access: access.set(path, value))

    def get_state(self) -> StateT:
        """See `StateStore.get_state`."""
        return cast(StateT, self.get(""))

    def set_state(self, state: BaseModel) -> None:
        """See `StateStore.set_state`."""
        self._serve(lambda access: access.set_state(state))

    def clear(self) -> None:
        """See `StateStore.clear`."""
        self._serve(lambda access: access.clear())

    @contextmanager
    def edit_state(self) -> Iterator[StateT]:
        """See `StateStore.edit_state`: `with ctx.store.edit_state() as state: state.n += 1`."""
        edit = self._do(self._access.open_edit())
        try:
            yield edit.begin()
            change = edit.change()
        except GeneratorExit:  # the frame was dropped in the block
            self._access.forget_edit(edit)
            raise
        except BaseException:
            self._do(self._access.abandon_edit(edit))
            raise
        self._do(self._access.close_edit(edit, change))
