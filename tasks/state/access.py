"""What `ctx.store` does, as procedures that serve both its faces (see `exchanges.py`).

Writers of one process queue up, so that Redis sees one of them at a time; writers of different processes meet in
Redis. `edit_state` takes the state's lock, because user code runs between reading and writing. `set` does not: it
compares and sets the value it started from, which is one exchange less, holds up nobody and leaves nothing behind when
its process dies. One that keeps losing that race takes the lock after all, so a slow writer gets through.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from ...orchestration.model.errors import StoreUnavailable, WorkflowRuntimeError
from ...orchestration.model.work_item import Work
from ...orchestration.state.local_queue import FifoQueue, Ticket, line_for
from ...orchestration.state.lock_renewal import RenewedLock
from ...orchestration.state.redis_hash import LOCK_SECONDS, Change, Occupied, StateHash
from ...orchestration.store.blocking import BlockingStore as Store
from ...orchestration.store.exchanges import Exchange, NewSignal, Pause, Procedure, Wait
from ...orchestration.store.keys import new_id
from .fields import CLASS_FIELD, EditBlock, StateFields, check_replaceable, merge, refuse_inside_edit
from .paths import Absent, assign, follow, split_path

StateT = TypeVar("StateT", bound=BaseModel)
T = TypeVar("T")

#: How long a writer waits for one and the same edit to end.
PATIENCE_SECONDS = 60.0
#: How often `set` tries without the lock.
OPTIMISTIC_TRIES = 8
#: How often one who waits in this process looks whether the one before him vanished.
LOOK_SECONDS = 1.0
#: Pauses between two tries to get the lock, and the wait after which the next turn is reserved.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, RESERVE_SECONDS = 0.002, 0.05, 0.25


class StateBusy(WorkflowRuntimeError, TimeoutError):
    """Another edit of the same state did not end in time; nothing was written."""


class StateEditLost(WorkflowRuntimeError):
    """An edit's lock ran out before its block ended; nothing was written."""


@dataclass(eq=False)
class Edit(Generic[StateT]):
    """An edit in progress.

    Attributes:
        state: A copy of the state, for the user to change.
    """

    state: StateT
    raw: dict[str, bytes]
    token: str
    renewed: RenewedLock
    turn: Ticket
    block: EditBlock


class _Waiting:
    """How long one writer has been kept waiting by others in Redis."""

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
        lock_seconds: float = LOCK_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.hash = StateHash(store, run_id, state_id, work, lock_seconds)
        self.fields = StateFields(state_class, run_id, store.settings)
        self.patience_seconds = patience_seconds

    @cached_property
    def line(self) -> FifoQueue:
        """Where the writers of this process queue up."""
        return line_for(self.hash.store.settings.redis_url or "", self.hash.key)

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, path: str, default: Any) -> Procedure[Any]:
        """See `StateStore.get`."""
        segments = split_path(path)
        if not segments:
            return (yield from self.get_state())
        try:
            if self.fields.is_dynamic(segments[0]):
                raw = yield Exchange(partial(self.hash.read, segments[0]))
                if raw is None or segments[0] == CLASS_FIELD:
                    raise Absent(segments[0])
                return follow(self.fields.load_value(segments[0], raw), segments[1:])
            return follow((yield from self.get_state()), segments)
        except Absent:
            if default is ...:
                raise ValueError(f"Path {path!r} not found in state") from None
            return default

    def get_state(self) -> Procedure[StateT]:
        """See `StateStore.get_state`."""
        raw = yield Exchange(self.hash.read_all)
        return self.fields.load(raw)

    # -- writing ---------------------------------------------------------------------------------------------------

    def set(self, path: str, value: Any) -> Procedure[None]:
        """See `StateStore.set`."""
        refuse_inside_edit(self.hash.key)
        segments = split_path(path)
        if not segments or segments[0] == CLASS_FIELD:
            raise ValueError(f"Path {path!r} names no key. To replace the whole state call set_state().")
        what = f"set({path!r})"
        dynamic = self.fields.is_dynamic(segments[0])
        if dynamic and len(segments) == 1:
            return (yield from self._overwrite(self.fields.one_value(path, value, "set"), what))

        def change(raw: Mapping[str, bytes]) -> Change | None:
            state = self.fields.load(raw)
            assign(state, segments, value)
            return self.fields.difference(raw, state, "set")

        return (yield from self._transform(segments[0] if dynamic else None, change, what))

    def set_state(self, state: BaseModel) -> Procedure[None]:
        """See `StateStore.set_state`."""
        refuse_inside_edit(self.hash.key)
        current = yield from self._current_class()
        if check_replaceable(current, state):
            return (yield from self._overwrite(self.fields.whole(state, "set_state"), "set_state()"))

        def merged(raw: Mapping[str, bytes]) -> Change | None:
            whole = self.fields.load(raw)
            merge(whole, state)
            return self.fields.difference(raw, whole, "set_state")

        return (yield from self._transform(None, merged, "set_state()"))

    def clear(self) -> Procedure[None]:
        """See `StateStore.clear`."""
        refuse_inside_edit(self.hash.key)
        current = yield from self._current_class()
        change = self.fields.whole(self.fields.default(current), "clear")
        return (yield from self._overwrite(change, "clear()"))

    def _current_class(self) -> Procedure[type[StateT]]:
        name = yield Exchange(partial(self.hash.read, CLASS_FIELD))
        return self.fields.stored_class({} if name is None else {CLASS_FIELD: name})

    def _overwrite(self, change: Change, what: str) -> Procedure[None]:
        """Write without regard to what is there."""
        turn = yield from self._take_turn(what)
        try:
            yield from self._write(change, what)
        finally:
            self.line.leave(turn)

    def _transform(
        self, key: str | None, change: Callable[[Mapping[str, bytes]], Change | None], what: str
    ) -> Procedure[None]:
        """Write what is made from one key (None: from all), as if nobody wrote in between."""
        turn = yield from self._take_turn(what)
        try:
            for _ in range(OPTIMISTIC_TRIES):
                raw = yield Exchange(partial(self._read_fields, key))
                wanted = change(raw)
                if wanted is None:
                    return
                expect = {name: raw.get(name) for name in {*raw, *wanted.set}}
                if (yield from self._write(wanted, what, expect)) == "written":
                    return
            yield from self._transform_locked(key, change, what)
        finally:
            self.line.leave(turn)

    def _transform_locked(
        self, key: str | None, change: Callable[[Mapping[str, bytes]], Change | None], what: str
    ) -> Procedure[None]:
        token = new_id()
        answer: str | None = None
        try:
            raw = yield from self._lock(token, what)
            wanted = change(raw if key is None else {key: raw[key]} if key in raw else {})
            if wanted is not None:
                answer = yield from self._write_locked(wanted, token, raw, what)
        finally:
            if answer is None:
                yield from self._unlock(token)

    def _read_fields(self, key: str | None) -> dict[str, bytes]:
        if key is None:
            return self.hash.read_all()
        raw = self.hash.read(key)
        return {} if raw is None else {key: raw}

    def _write(
        self, change: Change, what: str, expect: Mapping[str, bytes | None] | None = None
    ) -> Procedure[Literal["written", "changed", "lost"]]:
        """Write without the lock, once nobody else holds it."""
        waiting = _Waiting()
        while True:
            answer = yield Exchange(partial(self.hash.write, change, expect=expect, reserve=waiting.long))
            if not isinstance(answer, Occupied):
                written: Literal["written", "changed", "lost"] = answer
                return written
            yield from self._give_way(answer, waiting, what)

    # -- editing ---------------------------------------------------------------------------------------------------

    def open_edit(self) -> Procedure[Edit[StateT]]:
        """Take the lock and read the state. Ends with `close_edit` or `abandon_edit`."""
        refuse_inside_edit(self.hash.key)
        token = new_id()
        turn = yield from self._take_turn("edit_state()")
        try:
            raw = yield from self._lock(token, "edit_state()")
            try:
                state = self.fields.load(raw)
            except BaseException:
                yield from self._unlock(token)
                raise
        except BaseException:
            self.line.leave(turn)
            raise
        block = EditBlock(self.hash.key)
        block.enter()
        renewed = RenewedLock(partial(self.hash.renew, token), self.hash.lock_seconds)
        return Edit(state, raw, token, renewed, turn, block)

    def close_edit(self, edit: Edit[StateT]) -> Procedure[None]:
        """Write what was changed, and let the next one in."""
        answer: str | None = None
        try:
            change = self.fields.difference(edit.raw, edit.state, "edit_state")
            if change is not None:
                answer = yield from self._write_locked(change, edit.token, edit.raw, "edit_state()")
        finally:
            yield from self._end(edit, locked=answer is None)

    def abandon_edit(self, edit: Edit[StateT]) -> Procedure[None]:
        """Forget what was changed, and let the next one in."""
        yield from self._end(edit, locked=True)

    def forget_edit(self, edit: Edit[StateT]) -> None:
        """Let the next one of this process in, for an editor that cannot exchange anything any more.

        To other processes the lock looks as if this one had died: it runs out.
        """
        edit.block.open = False
        edit.renewed.end()
        self.line.leave(edit.turn)

    def _end(self, edit: Edit[StateT], *, locked: bool) -> Procedure[None]:
        edit.block.open = False
        edit.renewed.end()
        try:
            if locked:
                yield from self._unlock(edit.token)
        finally:
            self.line.leave(edit.turn)

    def _write_locked(
        self, change: Change, token: str, raw: Mapping[str, bytes], what: str
    ) -> Procedure[Literal["written", "changed", "lost"]]:
        """Write what was made from `raw` under a lock; should that have run out, only if nobody else wrote since."""
        answer = yield Exchange(partial(self.hash.write, change, lock=token))
        if answer == "lost":
            expect = {name: raw.get(name) for name in {*raw, *change.set}}
            answer = yield from self._write(change, what, expect)
        if answer != "written":
            raise StateEditLost(
                f"An edit of the state of run {self.hash.run_id!r} was not saved: its lock had run out, because this "
                f"process or Redis stood still for more than {self.hash.lock_seconds:g} s, and the state has been "
                "changed by others meanwhile. Edit it again."
            )
        written: Literal["written", "changed", "lost"] = answer
        return written

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _take_turn(self, what: str) -> Procedure[Ticket]:
        """Queue up in this process."""
        signal = yield NewSignal()
        turn = self.line.join(signal.set)
        try:
            while not turn.granted:
                yield Wait(signal, min(LOOK_SECONDS, self.patience_seconds))
                self.line.advance()
                if not turn.granted and time.monotonic() - self.line.moved_at > self.patience_seconds:
                    raise self._busy(what)
        except BaseException:
            self.line.leave(turn)
            raise
        return turn

    def _lock(self, token: str, what: str) -> Procedure[dict[str, bytes]]:
        """Queue up in Redis, among processes."""
        waiting = _Waiting()
        try:
            while True:
                answer = yield Exchange(partial(self.hash.lock, token, reserve=waiting.long))
                if not isinstance(answer, Occupied):
                    raw: dict[str, bytes] = answer
                    return raw
                yield from self._give_way(answer, waiting, what)
        except BaseException:
            yield from self._unlock(token)  # it may have been given to us all the same
            raise

    def _unlock(self, token: str) -> Procedure[None]:
        with suppress(StoreUnavailable):  # the lock runs out by itself; what led here matters more
            yield Exchange(partial(self.hash.unlock, token))

    def _give_way(self, held: Occupied, waiting: _Waiting, what: str) -> Procedure[None]:
        now = time.monotonic()
        if self.line.holder != held.holder:
            self.line.holder, self.line.holder_since = held.holder, now
            self.line.moved_at = now
        if now - self.line.holder_since > self.patience_seconds:
            raise self._busy(what)
        yield Pause(waiting.next_pause())

    def _busy(self, what: str) -> StateBusy:
        step = f" in step {self.hash.work.step!r}" if self.hash.work else ""
        return StateBusy(
            f"{what}{step} on the state of run {self.hash.run_id!r} was not done: one edit_state block has been open "
            f"for more than {self.patience_seconds:g} s, and no other writer may pass it. Keep such blocks short; "
            "above all, never wait inside one for something that writes to the same state."
        )
