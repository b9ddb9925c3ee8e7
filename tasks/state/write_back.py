"""`ctx.store` of programs that were written for a state in one process.

There a step gets the objects themselves: it gets the `memory`, puts a message in, and is done. Here a step gets copies;
what it did to them is found by comparing bytes when it ends. And there a step that dies takes the state with it; here
another worker repeats the step on what is stored. So what a step sets is kept back until it is known that the step need
not be repeated: the commit of its outcome writes it.
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

#: A step that is not over so long after it has set a value no longer keeps it from others.
_KEPT_BACK_SECONDS = 1.0


@dataclass
class _Given:
    """A value that the step has.

    Attributes:
        raw: What is stored of it, or will be.
        value: The object, which the step may have changed.
    """

    raw: bytes
    value: Any


class WriteBackStore(StateStore[StateT]):
    """A `StateStore` for one attempt of an `async def` step, which writes with the step's outcome.

    Within the attempt, asking for a key again gives the same object, until another writer has changed the key.

    *Promise:* what was changed in place, and what was set, is written by the commit of the step, with its outcome or
    not at all: a step that dies leaves nothing of it. If somebody else has written a key meanwhile that was changed in
    place, the commit wins, and a warning is logged. What was set is written earlier, and then stays if the step dies:
    before events that the step sends are delivered, before `edit_state`, `set_state` and `clear`, and when the step is
    not over a second later. A failure or a wait writes what was set, and nothing that was changed in place.
    """

    def __init__(self, access: StateAccess[StateT]) -> None:
        super().__init__(access)
        self._given: dict[str, _Given] = {}
        self._kept_back: dict[str, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    async def get(self, path: str, default: Any = ...) -> Any:
        """See `StateStore.get`; what is changed in the value counts."""
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
        """See `StateStore.set`; what is changed in the value afterwards counts too."""
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
        """Refuse a model that keeps a part of itself out of what it writes, as one over a database does.

        Changes to that part would be lost without anybody noticing.
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
        """Write what was set, now. On any event loop.

        Raises:
            RunClosed, StateBusy, StoreUnavailable: As `set` of a `StateStore`; it is still kept back.
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
        """What the step has changed in values without setting them: top-level key -> JSON.

        Raises:
            UnserializableValue, PayloadTooLarge: A value has become one that cannot be stored, naming the key.
            StoreUnavailable: Redis did not answer.
        """
        if self._timer is not None:
            self._timer.cancel()  # the commit writes what was set
        fields = self._access.fields
        found: dict[str, bytes] = {}
        for key, given in self._given.items():
            now = fields.one_value(key, given.value, "set").set[key]
            # JSON may differ without a difference in value, if another version of the class wrote it.
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
        """What was set and is for the commit to write: top-level key -> JSON."""
        return self._kept_back
