"""The operations of `ctx.store`, as coroutines for any event loop. Both stores in `store.py` use them.

Writers of one process queue up, so that Redis sees one of them at a time; writers of different processes compete in
Redis. `edit_state` takes the state's lock, because user code runs between reading and writing. `set` does not: it
compares and sets the value it started from, which saves a request, blocks nobody and leaves nothing behind if
its process dies. A writer that keeps losing this race takes the lock in the end, so a slow writer gets through.

A request that may change something is always awaited, even if its writer is cancelled meanwhile, so that it is known
whether it was applied and whether something must be undone. A coroutine that is dropped (`GeneratorExit`) cannot await
anything: it gives up its turn, and its lock expires.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

from pydantic import BaseModel

from ...orchestration.connection.keys import new_id
from ...orchestration.model.errors import StoreUnavailable, WorkflowRuntimeError
from ...orchestration.model.work_item import Work
from ...orchestration.state.local_queue import Ticket, queue_for
from ...orchestration.state.lock_renewal import LockRenewal, RenewedLock
from ...orchestration.state.redis_hash import LOCK_SECONDS, Change, Occupied, StateHash, Written
from ...orchestration.store.verbs import Store
from .fields import CLASS_FIELD, EditBlock, StateFields, check_replaceable, merge, refuse_inside_edit
from .paths import Absent, assign, follow, split_path

StateT = TypeVar("StateT", bound=BaseModel)
T = TypeVar("T")

#: Makes a change from the stored fields; None is no change.
MakeChange: TypeAlias = Callable[[Mapping[str, bytes]], Change | None]

#: How long a writer waits for any single edit to end.
PATIENCE_SECONDS = 60.0
#: How many times `set` tries without the lock.
OPTIMISTIC_TRIES = 8
#: Shortest and longest pause between attempts to get the lock, and the wait after which the next turn is reserved.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, RESERVE_SECONDS = 0.002, 0.05, 0.25


class StateBusy(WorkflowRuntimeError, TimeoutError):
    """Another edit of the same state did not end in time; nothing was written."""


class StateEditLost(WorkflowRuntimeError):
    """An edit's lock expired before its block ended and others have changed the state; nothing was written."""


class CallUserCode(Protocol):
    """Calls a function that may run user code: validators and serializers of the state's classes."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Call the function where user code must run; return or raise what it does."""
        ...


async def _call_here(function: Callable[[], T], /) -> T:
    return function()


@dataclass(eq=False)
class Edit(Generic[StateT]):
    """An edit in progress.

    Attributes:
        raw: The state at its beginning: top-level key -> JSON.
    """

    fields: StateFields[StateT]
    raw: dict[str, bytes]
    token: str
    renewed: RenewedLock
    ticket: Ticket
    block: EditBlock

    def begin(self) -> StateT:
        """A copy of the state, for the user to change in the block that begins here. May call user code.

        Raises:
            ValueError, StateMismatch: As `StateFields.load`.
        """
        self.state = self.fields.load(self.raw)
        self.block.enter()
        return self.state

    def change(self) -> Change | None:
        """What the user has changed; None if nothing. May call user code.

        Raises:
            UnserializableValue, PayloadTooLarge, pydantic.ValidationError: As `StateFields.difference`.
        """
        return self.fields.difference(self.raw, self.state, "edit_state")


class _Waiting:
    """How long one writer has been waiting for other processes."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.pause_seconds = FIRST_PAUSE_SECONDS

    @property
    def long(self) -> bool:
        return time.monotonic() - self.since > RESERVE_SECONDS

    def next_pause(self) -> float:
        pause = self.pause_seconds
        self.pause_seconds = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        return pause


class StateAccess(Generic[StateT]):
    """The operations on one state by one writer."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        state_id: str,
        state_class: type[StateT],
        work: Work | None,
        *,
        renewing: Store | None = None,
        lock_seconds: float = LOCK_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        recorded: StateHash | None = None,
        confirmed: list[None] | None = None,
    ) -> None:
        """Args:
        store: Where the run is stored.
        run_id: The run; its journal records every write.
        state_id: The state, which several runs may share.
        state_class: The class that the workflow's steps declare, or `DictState`.
        work: The attempt that writes; None for a caller outside of the run.
        renewing: As `store`, on a portal whose loop user code does not block: it renews the locks of edits and
            reads for `to_dict`. By default `store`.
        lock_seconds: How long an editor that died keeps others waiting.
        patience_seconds: How long a writer waits for any single edit to end.
        recorded: Replaces the state in Redis: the state as a journal records it.
        confirmed: As in `StateHash`.
        """
        confirmed = [] if confirmed is None else confirmed
        self.hash = recorded or StateHash(store, run_id, state_id, work, lock_seconds, confirmed)
        self.portal = store.connection.portal
        self.unblocked = self.hash if renewing is None else replace(self.hash, store=renewing)
        self.fields = StateFields(state_class, run_id, store.settings)
        self.patience_seconds = patience_seconds
        self.queue = queue_for(store.connection.url, self.hash.key)
        self._renewal = LockRenewal(self.unblocked.store.connection.portal, self.unblocked.renew, lock_seconds)
        self._user_code: CallUserCode = _call_here

    def calling(self, user_code: CallUserCode) -> Self:
        """The same for a caller whose user code must run elsewhere."""
        other = copy.copy(self)
        other._user_code = user_code
        return other

    # -- reading ---------------------------------------------------------------------------------------------------

    async def read(self, path: str) -> dict[str, bytes]:
        """The stored fields that `found` needs for this path."""
        segments = split_path(path)
        if not segments or not self.fields.is_dynamic(segments[0]):
            return await self._read_fields(None)
        return await self._read_fields(segments[0])

    def found(self, path: str, raw: Mapping[str, bytes], default: Any) -> Any:
        """See `StateStore.get`. May call user code."""
        segments = split_path(path)
        try:
            if not segments or not self.fields.is_dynamic(segments[0]):
                return follow(self.fields.load(raw), segments)
            if segments[0] not in raw or segments[0] == CLASS_FIELD:
                raise Absent(segments[0])
            return follow(self.fields.load_value(segments[0], raw[segments[0]]), segments[1:])
        except Absent:
            if default is ...:
                raise ValueError(f"Path {path!r} not found in state") from None
            return default

    # -- writing ---------------------------------------------------------------------------------------------------

    def set(self, path: str, value: Any) -> Coroutine[Any, Any, None]:
        """See `StateStore.set`. The call itself checks and encodes where it can, in the caller's thread."""
        refuse_inside_edit(self.hash.key)
        segments = split_path(path)
        if not segments or segments[0] == CLASS_FIELD:
            raise ValueError(f"Path {path!r} names no key. To replace the whole state call set_state().")
        what = f"set({path!r})"
        dynamic = self.fields.is_dynamic(segments[0])
        if dynamic and len(segments) == 1:
            return self.overwrite(self.fields.one_value(path, value, "set"), what)

        def change(raw: Mapping[str, bytes]) -> Change | None:
            state = self.fields.load(raw)
            assign(state, segments, value)
            return self.fields.difference(raw, state, "set")

        return self._transform(segments[0] if dynamic else None, change, what)

    async def set_state(self, state: BaseModel) -> None:
        """See `StateStore.set_state`."""
        refuse_inside_edit(self.hash.key)
        current = await self._current_class()
        if check_replaceable(current, state):
            change = await self._user_code(partial(self.fields.whole, state, "set_state"))
            return await self.overwrite(change, "set_state()")

        def merged(raw: Mapping[str, bytes]) -> Change | None:
            whole = self.fields.load(raw)
            merge(whole, state)
            return self.fields.difference(raw, whole, "set_state")

        return await self._transform(None, merged, "set_state()")

    async def clear(self) -> None:
        """See `StateStore.clear`."""
        refuse_inside_edit(self.hash.key)
        current = await self._current_class()
        change = await self._user_code(lambda: self.fields.whole(self.fields.default(current), "clear"))
        await self.overwrite(change, "clear()")

    async def _current_class(self) -> type[StateT]:
        name = await self.portal.run(self.hash.read(CLASS_FIELD))
        return self.fields.stored_class({} if name is None else {CLASS_FIELD: name})

    async def overwrite(self, change: Change, what: str) -> None:
        """Write a change whatever is stored; `what` names the operation in errors."""
        ticket = await self._take_turn(what)
        try:
            await self._write(change, what)
        finally:
            self.queue.leave(ticket)

    async def _transform(self, key: str | None, make: MakeChange, what: str) -> None:
        """Write a change made from one key (None: from all), atomically with the read."""
        ticket = await self._take_turn(what)
        try:
            for _ in range(OPTIMISTIC_TRIES):
                raw = await self._read_fields(key)
                change = await self._user_code(partial(make, raw))
                if change is None:
                    return
                if await self._write(change, what, _expected(raw, change)) == "written":
                    return
            await self._transform_locked(key, make, what)
        finally:
            self.queue.leave(ticket)

    async def _transform_locked(self, key: str | None, make: MakeChange, what: str) -> None:
        token = new_id()
        raw = await self._lock(token, what)
        try:
            change = await self._user_code(partial(make, raw if key is None else _only(key, raw.get(key))))
            if change is not None:
                await self._write_locked(change, token, raw, what)
        except GeneratorExit:
            raise
        except BaseException:
            await self._unlock(token)
            raise
        if change is None:
            await self._unlock(token)

    async def _read_fields(self, key: str | None) -> dict[str, bytes]:
        if key is None:
            return await self.portal.run(self.hash.read_all())
        return _only(key, await self.portal.run(self.hash.read(key)))

    async def _write(self, change: Change, what: str, expect: Mapping[str, bytes | None] | None = None) -> Written:
        """Write without taking the lock, as soon as nobody holds it."""
        waiting = _Waiting()
        while True:
            answer = await self.portal.finish(self.hash.write(change, expect=expect, reserve=waiting.long))
            if not isinstance(answer, Occupied):
                return answer
            await self._give_way(answer, waiting, what)

    # -- editing ---------------------------------------------------------------------------------------------------

    async def open_edit(self) -> Edit[StateT]:
        """Take the lock and read the state. Ends with `close_edit`, `abandon_edit` or `forget_edit`."""
        refuse_inside_edit(self.hash.key)
        token = new_id()
        ticket = await self._take_turn("edit_state()")
        try:
            raw = await self._lock(token, "edit_state()")
        except BaseException:
            self.queue.leave(ticket)
            raise
        return Edit(self.fields, raw, token, self._renewal.begin(token), ticket, EditBlock(self.hash.key))

    async def close_edit(self, edit: Edit[StateT], change: Change | None) -> None:
        """Write what was changed, and let the next writer in."""
        if change is None:
            return await self.abandon_edit(edit)
        try:
            await self._write_locked(change, edit.token, edit.raw, "edit_state()")
        except GeneratorExit:
            self.forget_edit(edit)
            raise
        except BaseException:
            await self.abandon_edit(edit)
            raise
        return self.forget_edit(edit)  # the write has ended the lock

    async def abandon_edit(self, edit: Edit[StateT]) -> None:
        """Discard what was changed, and let the next writer in."""
        edit.block.open = False
        edit.renewed.end()
        try:
            await self._unlock(edit.token)
        finally:
            self.queue.leave(edit.ticket)

    def forget_edit(self, edit: Edit[StateT]) -> None:
        """Let the next writer of this process in, and leave the lock alone.

        The editor can no longer await anything. To other processes it looks as if its process had died: the lock
        expires.
        """
        edit.block.open = False
        edit.renewed.end()
        self.queue.leave(edit.ticket)

    async def _write_locked(self, change: Change, token: str, raw: Mapping[str, bytes], what: str) -> None:
        """Write a change made from `raw` under a lock; if the lock has expired, only if `raw` is still stored."""
        answer = await self.portal.finish(self.hash.write(change, lock=token))
        if answer == "lost":
            answer = await self._write(change, what, _expected(raw, change))
        if answer != "written":
            self.hash.check_not_set_back(token)
            raise StateEditLost(
                f"An edit of the state of run {self.hash.run_id!r} was not saved: its lock had expired, because this "
                f"process or Redis stood still for more than {self.hash.lock_seconds:g} s, and the state has been "
                "changed by others meanwhile. Edit it again."
            )

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def _take_turn(self, what: str) -> Ticket:
        """Queue up in this process."""
        try:
            return await self.queue.take_turn(self.patience_seconds)
        except TimeoutError:
            raise self._busy(what) from None

    async def _lock(self, token: str, what: str) -> dict[str, bytes]:
        """Queue up in Redis, among processes."""
        waiting = _Waiting()
        try:
            while True:
                answer = await self.portal.finish(self.hash.lock(token, reserve=waiting.long))
                if not isinstance(answer, Occupied):
                    return answer
                await self._give_way(answer, waiting, what)
        except GeneratorExit:
            raise
        except BaseException:
            await self._unlock(token)  # the lock may have been granted nevertheless
            raise

    async def _unlock(self, token: str) -> None:
        with suppress(StoreUnavailable):  # the lock expires by itself; the original error matters more
            await self.portal.finish(self.hash.unlock(token))

    async def _give_way(self, held: Occupied, waiting: _Waiting, what: str) -> None:
        now = time.monotonic()
        if self.queue.holder != held.holder:
            self.queue.holder, self.queue.holder_since = held.holder, now
            self.queue.moved_at = now
        if now - self.queue.holder_since > self.patience_seconds:
            raise self._busy(what)
        await asyncio.sleep(waiting.next_pause())

    def _busy(self, what: str) -> StateBusy:
        step = f" in step {self.hash.work.step!r}" if self.hash.work else ""
        return StateBusy(
            f"{what}{step} on the state of run {self.hash.run_id!r} was not done: one edit_state block has been open "
            f"for more than {self.patience_seconds:g} s, and no other writer may pass it. Keep such blocks short; "
            "above all, never wait inside one for something that writes to the same state."
        )


def _expected(raw: Mapping[str, bytes], change: Change) -> dict[str, bytes | None]:
    """The stored values that a change made from `raw` depends on."""
    return {name: raw.get(name) for name in {*raw, *change.set}}


def _only(key: str, raw: bytes | None) -> dict[str, bytes]:
    return {} if raw is None else {key: raw}
