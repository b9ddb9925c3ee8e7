"""Code that a step executes only once, however often the step itself is executed: `ctx.once`."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar, cast

from ...orchestration.model.errors import PayloadTooLarge, UnserializableValue, WorkflowRuntimeError
from ...orchestration.model.tagged_json import NotJson
from ...orchestration.model.work_item import Work
from ...orchestration.state.memo import keep, recall
from ...orchestration.store.verbs import Store
from ..values.json_values import dump_json, from_json_value, to_json_value
from ..values.texts import is_text

T = TypeVar("T")

#: Work id and key of the `once` functions inside which this code runs.
_computing: ContextVar[frozenset[tuple[str, str]]] = ContextVar("umbel_once", default=frozenset())


class Memos:
    """The values that one attempt of a step stores and finds."""

    def __init__(self, work: Work, store: Store, confirmed: list[None]) -> None:
        """Args:
        work: The attempt.
        store: Where values are stored.
        confirmed: Receives an element for each value that Redis has stored; see `StateHash`.
        """
        self._work, self._store = work, store
        self._may_have_some = work.attempt > 1 or work.resumptions > 0
        self._locks: dict[str, asyncio.Lock] = {}
        self._found: dict[str, bytes] = {}
        self._confirmed = confirmed

    async def once(self, key: str, function: Callable[[], Awaitable[T] | T]) -> T:
        """See `Context.once`."""
        if not key or not is_text(key):
            raise WorkflowRuntimeError(
                f"ctx.once() of step {self._work.step!r} was given the key {key!r}. Give a text that names what the "
                "function does, the same whenever the step is executed."
            )
        if not callable(function):
            raise WorkflowRuntimeError(
                f"ctx.once({key!r}, …) of step {self._work.step!r} of run {self._work.run_id!r} got {function!r}, "
                "which is not a function. Give what computes the value, not the value: ctx.once(key, lambda: …)."
            )
        if (self._work.work_id, key) in _computing.get():
            raise WorkflowRuntimeError(
                f"The function of ctx.once({key!r}, …) of step {self._work.step!r} of run {self._work.run_id!r} calls "
                "ctx.once() with the same key, and would wait for itself. Give each a key of its own."
            )
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._found.get(key)
            if known is None and self._may_have_some:
                known = await self._recall(key)
            if known is None:
                known = await self._keep(key, self._dumped(key, await self._computed(key, function)))
                self._confirmed.append(None)
            self._found[key] = known
        return cast(T, from_json_value(json.loads(known)))

    async def _computed(self, key: str, function: Callable[[], Awaitable[T] | T]) -> T:
        token = _computing.set(_computing.get() | {(self._work.work_id, key)})
        try:
            returned = function()
            return await cast("Awaitable[T]", returned) if inspect.isawaitable(returned) else returned
        finally:
            _computing.reset(token)

    async def _recall(self, key: str) -> bytes | None:
        return await recall(self._store, self._work, key)

    async def _keep(self, key: str, value: bytes) -> bytes:
        return await keep(self._store, self._work, key, value)

    def _dumped(self, key: str, value: object) -> bytes:
        about = f"What ctx.once({key!r}, …) of step {self._work.step!r} of run {self._work.run_id!r} computed"
        try:
            data = dump_json(to_json_value(value))
        except NotJson as flaw:
            raise UnserializableValue(f"{about} cannot be kept: {flaw}") from flaw
        most = self._store.settings.payload_max_bytes
        if len(data) > most:
            raise PayloadTooLarge(
                f"{about} has {len(data):,} bytes, at most {most:,} are allowed (payload_max_bytes). Keep the data in "
                "a file, a bucket or a database, and return their location."
            )
        return data
