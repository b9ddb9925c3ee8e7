"""`ctx.store` in Redis: a hash per state, one field per top-level key, values as opaque JSON.

*Invariants.*

1. A write from a step is applied only while its run is running and its work item still has the token of the claim; a
   process that was declared dead never writes.
2. While an edit is in progress, nobody else writes. The lock expires a few seconds after its editor died.
3. A write is applied once, even if its reply was lost and it is sent again. Its journal entry is part of it.

Readers never wait: they see the latest write. The meaning of values is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from ..connection.keys import new_id
from ..model.durations import is_count
from ..model.errors import RunClosed, WorkflowRuntimeError
from ..model.work_item import Work
from ..store.replies import pairs
from ..store.verbs import Store
from .local_queue import process_id

#: Result of a write: done; not done because a key is not as expected; not done because the lock has expired.
Written: TypeAlias = Literal["written", "changed", "lost"]

#: Top-level keys that were read; None for all of them.
Reads: TypeAlias = frozenset[str] | None

#: Lifetime of an edit's lock, renewed while its block is open: how long a killed editor blocks the others.
LOCK_SECONDS = 5.0

_REFUSED = {
    b"closed": "the run has ended",
    b"stale": "this attempt has already reported its outcome, or another process has taken over its work",
    b"unknown": "the run is no longer in Redis",
    b"missing": "Redis was set back, and has lost what this attempt wrote before",
}


@dataclass(frozen=True, slots=True)
class Occupied:
    """Another edit is in progress, or another process has precedence.

    Attributes:
        holder: Identifies that edit; a different name means that there was progress.
    """

    holder: str


@dataclass(frozen=True, slots=True)
class Change:
    """What one write does.

    Attributes:
        how: The method that the user called, for the journal.
        set: Top-level key -> JSON.
        delete: Top-level keys to delete.
        replace: Whether to delete all keys that are not in `set`.
    """

    how: str
    set: Mapping[str, bytes] = field(default_factory=dict)
    delete: Sequence[str] = ()
    replace: bool = False


@dataclass(frozen=True, slots=True)
class StateHash:
    """One state as seen by one writer: a step's attempt, or a caller outside the run (`work` is None).

    Each method is one request to Redis, may be awaited on any event loop, and may raise `StoreUnavailable`.

    Attributes:
        confirmed: One element per write that Redis has confirmed. A step's attempt shares it with `collect_events` and
            `ctx.once`: a Redis that lacks one of them was set back.
    """

    store: Store
    run_id: str
    state_id: str
    work: Work | None = None
    lock_seconds: float = LOCK_SECONDS
    confirmed: list[None] = field(default_factory=list, compare=False)
    _read: set[str | None] = field(default_factory=set, compare=False)
    _locked: dict[str, int] = field(default_factory=dict, compare=False)  # token -> `server_changes`

    @property
    def reads(self) -> Reads:
        """The keys that were read."""
        return None if None in self._read else frozenset(cast("set[str]", self._read))

    def note_reads(self, other: StateHash) -> None:
        """Count the reads of another object as reads of this one."""
        self._read.update(other._read)

    @property
    def writes(self) -> int:
        """How many writes Redis has confirmed; in a step, with the attempt's other exchanges that commit counts."""
        return len(self.confirmed)

    @property
    def key(self) -> str:
        """The hash's name in Redis."""
        return self.store.locate(self.run_id)[f"state:{self.state_id}"]

    async def read(self, name: str) -> bytes | None:
        """The JSON of one top-level key."""
        self._read.add(name)
        return cast("bytes | None", await self.store.command(self._reading, "HGET", self.key, name))

    async def read_all(self) -> dict[str, bytes]:
        """All top-level keys, at one moment."""
        self._read.add(None)
        return _fields(await self.store.command(self._reading, "HGETALL", self.key))

    async def lock(self, token: str, *, reserve: bool = False) -> dict[str, bytes] | Occupied:
        """Begin an edit and read all top-level keys.

        *Promise:* it may be repeated with the same token. A caller that dies afterwards blocks other writers for
        `lock_seconds`; a living one renews.

        Args:
            token: The caller's unguessable token.
            reserve: The caller has waited long: the process that holds the lock must not take it twice in a row.

        Raises:
            RunClosed: The writer's step may no longer write.
        """
        self._refuse_if_read_only()
        self._read.add(None)
        reply = await self._verb("state_lock", lock=token, px=self._px, reserve=reserve or None)
        if reply[0] == b"held":
            return Occupied(reply[1].decode())
        if self.work is not None:
            self._locked[token] = self.store.connection.server_changes
        return _fields(reply[1])

    async def renew(self, token: str) -> bool:
        """Extend the lock by `lock_seconds` from now; False if it has expired or its step may not write."""
        try:
            return bool((await self._verb("state_renew", lock=token, px=self._px))[0] == b"renewed")
        except RunClosed:
            return False

    async def unlock(self, token: str) -> None:
        """End an edit without writing. Another edit's lock is not affected."""
        self._locked.pop(token, None)
        await self._verb("state_unlock", lock=token)

    async def write(
        self,
        change: Change,
        *,
        lock: str | None = None,
        expect: Mapping[str, bytes | None] | None = None,
        reserve: bool = False,
    ) -> Written | Occupied:
        """Write a whole change and its journal entry, or nothing.

        Args:
            change: What to do.
            lock: The token of the edit that this write ends. Returns `lost` if it has expired meanwhile.
            expect: Without a lock: the keys that the change is based on, with their JSON as it was read. Returns
                `changed` if one of them has changed.
            reserve: As in `lock`.

        Raises:
            RunClosed: The writer's step may no longer write.
        """
        self._refuse_if_read_only()
        reply = await self._verb(
            "state_write",
            id=new_id(),
            lock=lock,
            px=self._px,
            expect={name: hashlib.sha1(raw).hexdigest() if raw is not None else "" for name, raw in expect.items()}
            if expect
            else None,
            reserve=reserve or None,
            how=change.how,
            xs=self.writes or None,
            body={"set": dict(change.set), "del": list(change.delete), "replace": change.replace or None},
        )
        if reply[0] == b"held":
            return Occupied(reply[1].decode())
        if reply[0] == b"written":
            self.confirmed.append(None)  # atomic, in case several threads write
            self._locked.pop(lock or "", None)
        return cast(Written, reply[0].decode())

    def check_not_set_back(self, token: str) -> None:
        """Called when the lock of an edit is lost.

        Raises:
            RunClosed: The writer is a step, and Redis was restarted or replaced since the lock was taken: it was set
                back to before that, and has lost what the step has read. The attempt is repeated.
        """
        if self.work is not None and self._locked.get(token) != self.store.connection.server_changes:
            self.confirmed.append(None)  # which Redis does not have: neither later writes nor the outcome are accepted
            raise self._obsolete("Redis was set back during an edit, and has lost its lock")

    def _refuse_if_read_only(self) -> None:
        if self.work is not None and '"access":"read"' in self.work.options:
            raise WorkflowRuntimeError(
                f"Step {self.work.step!r} of run {self.run_id!r} may not write to ctx.store: the run was started with "
                'access="read" and has a copy of its session\'s state. Start it with access="copy", or without access.'
            )

    # -- versions ------------------------------------------------------------------------------------------------------

    async def version(self) -> int:
        """How often the state was written; 0 before the first write. Journal entries of writes name it as `v`."""
        key = self.store.locate(self.run_id)[f"state:{self.state_id}:versions"]
        return int(await self.store.command(self._reading, "HGET", key, "v") or 0)

    async def read_version(self, version: int) -> dict[str, bytes] | None:
        """All top-level keys at a version; None if there is no such version, or the writes since then are not kept.

        The last 1,000 writes are kept, within `journal_max_bytes`; with `history="summary"` none.
        """
        if not is_count(version, least=0):
            return None
        reply = await self._verb("state_at", version=version)
        return _fields(reply[2]) if reply[0] == b"found" else None

    async def put_back(self, version: int, *, idle: bool = False) -> int | Occupied | Literal["busy"] | None:
        """Restore the state of a version.

        *Promise:* one atomic write, which creates a new version, so it can be undone too. It also replaces writes made
        after the caller last read the state.

        Args:
            version: The version to restore.
            idle: Only while no run of the session is running or waiting for its turn; otherwise returns `busy`.

        Returns:
            The version that this creates; `Occupied` while an edit is in progress; None as in `read_version`.
        """
        if not is_count(version, least=0):
            return None
        reply = await self._verb("state_back", id=new_id(), version=version, idle=idle or None)
        if reply[0] == b"busy":
            return "busy"
        if reply[0] == b"held":
            return Occupied(reply[1].decode())
        return int(reply[1]) if reply[0] == b"written" else None

    @property
    def _reading(self) -> str:
        return f"read the state of run {self.run_id!r}"

    @property
    def _px(self) -> int:
        return max(1, round(self.lock_seconds * 1000))

    async def _verb(self, verb: str, **args: Any) -> list[Any]:
        state, me = f"state:{self.state_id}", process_id()
        names = {
            "state": state,
            "versions": f"{state}:versions",
            "lock": f"{state}:lock",
            "next": f"{state}:lock:next",
            "answer": f"{state}:answer:{me}",
        }
        if self.work is not None:
            args |= {"w": self.work.work_id, "t": self.work.token}
        reply = await self.store.verb(verb, self.run_id, names, me=me, **args)
        if reply[0] in _REFUSED:
            raise self._obsolete(_REFUSED[reply[0]])
        return reply

    def _obsolete(self, reason: str) -> RunClosed:
        step = f"step {self.work.step!r} (attempt {self.work.attempt})" if self.work else "a caller"
        return RunClosed(
            f"ctx.store of run {self.run_id!r} was not written by {step}: {reason}. What the step does from here on is "
            "discarded; it should end.",
            "" if self.work is None else self.work.claim_id,
        )


def _fields(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in pairs(flat).items()}
