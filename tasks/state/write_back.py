"""`ctx.store` of programs that change what they got from it in place, and never set it again.

LlamaIndex keeps a state in one process and hands out the objects themselves: a step gets the `memory`, puts a message
in, and is done. Here a step gets copies. What it did to them is found by comparing bytes when it ends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from .paths import Absent, follow, split_path
from .store import StateStore

_log = logging.getLogger(__name__)

StateT = TypeVar("StateT", bound=BaseModel)


@dataclass
class _Given:
    """A value that the step has.

    Attributes:
        raw: What is stored of it.
        value: The object, which the step may have changed.
    """

    raw: bytes
    value: Any


class WriteBackStore(StateStore[StateT]):
    """A `StateStore` that remembers what it has given, for one attempt of an `async def` step.

    Within the attempt, asking for a key again gives the same object, until another writer has changed the key.

    *Promise:* what was changed in place is written by the commit of the step, with its outcome or not at all: a step
    that dies or fails leaves nothing of it. If somebody else has written the key meanwhile, the commit wins, and a
    warning is logged. What `set` and `edit_state` do is written at once, as everywhere.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given: dict[str, _Given] = {}

    async def get(self, path: str, default: Any = ...) -> Any:
        """See `StateStore.get`; what is changed in the value counts."""
        raw = await self._access.read(path)
        segments = split_path(path)
        fields = self._access.fields
        if not segments or segments[0] not in raw or not fields.is_dynamic(segments[0]):
            return self._access.found(path, raw, default)
        key = segments[0]
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
        await super().set(path, value)
        key, *below = split_path(path)
        if below or not self._access.fields.is_dynamic(key):
            self._given.pop(key, None)
        else:
            self._given[key] = _Given(self._access.fields.one_value(key, value, "set").set[key], value)

    async def changed(self) -> dict[str, bytes]:
        """What the step has changed in place: top-level key -> JSON.

        Raises:
            UnserializableValue, PayloadTooLarge: A value has become one that cannot be stored, naming the key.
            StoreUnavailable: Redis did not answer.
        """
        fields = self._access.fields
        found: dict[str, bytes] = {}
        for key, given in self._given.items():
            now = fields.one_value(key, given.value, "set").set[key]
            # JSON may differ without a difference in value, if another version of the class wrote it.
            if now != given.raw and now != fields.one_value(key, fields.load_value(key, given.raw), "set").set[key]:
                found[key] = now
        for key in found:
            stored = (await self._access.read(key)).get(key)
            if stored != self._given[key].raw:
                _log.warning(
                    "Key %r of the state of run %s was changed in place by a step, and by another writer meanwhile: "
                    "the writer's value is replaced. Change it in `async with ctx.store.edit_state()`, then none is "
                    "lost.",
                    key,
                    self._access.hash.run_id,
                    extra={"action": "state_written_over", "run_id": self._access.hash.run_id},
                )
        return found
