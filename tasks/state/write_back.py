"""`ctx.store` for programs that were written for a state in one process.

In one process a step gets the objects themselves: it gets the `memory`, appends a message, and needs no write. Here a
step gets copies, and its changes to them are found by comparing bytes when it ends. In one process a step that dies
takes the state with it; here another worker repeats the step on the stored state. So values that a step sets are held
back until the step need not be repeated: the commit of its outcome writes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from ...orchestration.model.errors import UmbelError, UnserializableValue
from ...orchestration.state.redis_hash import Change
from .access import StateAccess
from .fields import refuse_inside_edit
from .paths import Absent, follow, split_path
from .store import StateStore

_log = logging.getLogger(__name__)

StateT = TypeVar("StateT", bound=BaseModel)

#: How long after a step has set a value it is written even if the step has not ended.
_KEPT_BACK_SECONDS = 1.0


@dataclass
class _Given:
    """A value that the step has got or set.

    Attributes:
        raw: Its JSON as it is stored or will be.
        value: The object, which the step may have changed.
    """

    raw: bytes
    value: Any


class WriteBackStore(StateStore[StateT]):
    """A `StateStore` for one attempt of an `async def` step, which writes with the step's outcome.

    Within the attempt, getting a key again returns the same object, until another writer has changed the key.

    *Promise:* values that were changed in place or set are written by the step's commit, with its outcome or
    not at all: a step that dies leaves none of them. If another writer has meanwhile written a key that was changed in
    place, the commit wins, and a warning is logged. Values that were set are written earlier in these cases, and then
    remain even if the step dies: before events that the step sends are delivered; before `edit_state`, `set_state`,
    `clear`, a `get` of the whole state, any access to a declared field, and a `set` below a top-level key; and if the
    step has not ended after a second. A failure or a wait writes the values that were set, but none that were changed
    in place.
    """

    def __init__(self, access: StateAccess[StateT]) -> None:
        super().__init__(access)
        self._given: dict[str, _Given] = {}
        self._kept_back: dict[str, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    async def get(self, path: str, default: Any = ...) -> Any:
        """See `StateStore.get`; in-place changes to the value are written."""
        segments = split_path(path)
        fields = self._access.fields
        if not segments or not fields.is_dynamic(segments[0]):
            await self.write_kept_back()
            return await super().get(path, default)
        key = segments[0]
        raw = {key: self._kept_back[key]} if key in self._kept_back else await self._access.read(path)
        if key not in raw:
            return self._access.found(path, raw, default)
        given = self._given.get(key)
        if given is None or given.raw != raw[key]:
            given = self._given[key] = _Given(raw[key], fields.load_value(key, raw[key]))
        try:
            return follow(given.value, segments[1:])
        except Absent:
            if default is ...:
                raise ValueError(f"Path {path!r} not found in state") from None
            return default

    async def set(self, path: str, value: Any) -> None:
        """See `StateStore.set`; later in-place changes to the value are written too."""
        segments = split_path(path)
        if len(segments) != 1 or not self._access.fields.is_dynamic(segments[0]):
            await self.write_kept_back()
            return await super().set(path, value)
        refuse_inside_edit(self._access.hash.key)
        key = segments[0]
        self._refuse_parts(key, value)
        raw = self._access.fields.one_value(key, value, "set").set[key]
        self._given[key], self._kept_back[key] = _Given(raw, value), raw
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_KEPT_BACK_SECONDS, self._write_soon)
        return None

    async def set_state(self, state: BaseModel) -> None:
        """See `StateStore.set_state`."""
        await self.write_kept_back()
        await super().set_state(state)

    async def clear(self) -> None:
        """See `StateStore.clear`."""
        await self.write_kept_back()
        await super().clear()

    @asynccontextmanager
    async def edit_state(self) -> AsyncIterator[StateT]:
        """See `StateStore.edit_state`."""
        await self.write_kept_back()
        async with super().edit_state() as state:
            yield state

    def _refuse_parts(self, key: str, value: Any) -> None:
        """Refuse a model that excludes a part of itself from its JSON, for example a wrapper of a database.

        Changes to that part would be lost silently.
        """
        fields = type(value).model_fields.items() if isinstance(value, BaseModel) else ()
        for name, field in fields:
            if field.exclude and isinstance(getattr(value, name, None), BaseModel):
                raise UnserializableValue(
                    f"The state of run {self._access.hash.run_id!r} cannot be written: {key!r} is a "
                    f"{type(value).__qualname__}, which does not write its field {name!r} (exclude=True), and so would "
                    "come back without its contents. Use a class that writes all of itself (of LlamaIndex's memories "
                    "ChatMemoryBuffer), or keep it in a Resource."
                )

    # -- when it is written --------------------------------------------------------------------------------------------

    async def write_kept_back(self) -> None:
        """Write the values that were set, now. May be called on any event loop.

        Raises:
            RunClosed, StateBusy, StoreUnavailable: As `StateStore.set`; the values are still held back.
        """
        if taken := dict(self._kept_back):
            await self._access.overwrite(Change("set", taken), "set()")
            for key, raw in taken.items():
                if self._kept_back.get(key) is raw:
                    del self._kept_back[key]

    def _write_soon(self) -> None:
        self._timer = None
        self._writing = asyncio.ensure_future(self._write_late())

    async def _write_late(self) -> None:
        try:
            await self.write_kept_back()
        except UmbelError as error:  # the commit writes it, or is refused for the same reason
            _log.info("state that a step has set is left to its commit: %s", error, extra={"action": "state_kept_back"})

    async def changed_in_place(self) -> dict[str, bytes]:
        """The values that the step has changed in place, without setting them: top-level key -> JSON.

        Raises:
            UnserializableValue, PayloadTooLarge: A changed value cannot be stored; the message names the key.
            StoreUnavailable: Redis did not answer.
        """
        if self._timer is not None:
            self._timer.cancel()  # the commit writes what was set
        fields = self._access.fields
        found: dict[str, bytes] = {}
        for key, given in self._given.items():
            now = fields.one_value(key, given.value, "set").set[key]
            # The JSON of equal values may differ if another version of the class wrote it.
            if now != given.raw and now != fields.one_value(key, fields.load_value(key, given.raw), "set").set[key]:
                found[key] = now
        for key in found.keys() - self._kept_back.keys():
            if (await self._access.read(key)).get(key) != self._given[key].raw:
                _log.warning(
                    "Key %r of the state of run %s was changed in place by a step, and by another writer meanwhile: "
                    "the writer's value is replaced. Change it in `async with ctx.store.edit_state()`, then none is "
                    "lost.",
                    key,
                    self._access.hash.run_id,
                    extra={"action": "state_written_over", "run_id": self._access.hash.run_id},
                )
        return found

    @property
    def kept_back(self) -> Mapping[str, bytes]:
        """The values that were set and that the commit will write: top-level key -> JSON."""
        return self._kept_back
