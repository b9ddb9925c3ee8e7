"""Verifies that a run's journal leads to its present data: rebuilds the run and compares it byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgpack

from ..connection.keys import state_id_of
from ..model.errors import HistoryDamaged
from ..snapshots.take import Contents, contents
from ..state.redis_hash import StateHash
from ..store.journal import Entry
from ..store.verbs import Store
from .packing.checkpoints import packed, read_checkpoint
from .rebuild import begins_with_version, past_entries, rebuilding, rebuilt_contents
from .scratch import Scratch

#: Remembered replies, and the ticket of an admission: they are no part of the run's control state.
_ASIDE = {b"started", b"begun", b"rewound_answer"}
#: Keys whose values are maps written by Lua, with their fields in any order.
_OF_MAPS = ("work", "queue", "scopes", "joins", "children")
_SORTED = ("free", "waiting", "received")


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where the run differs from its journal.

    Attributes:
        key: Logical name of the key.
        field: Field of a hash; else empty.
        expected: What the journal leads to.
        found: What the run has.
    """

    key: str
    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        where = f"{self.key}[{self.field}]" if self.field else self.key
        return f"{where}: expected {self.expected!r}, found {self.found!r}"


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification.

    Attributes:
        run_id: The run.
        entries: How many entries were replayed.
        differences: Where the run differs from its journal; empty if nowhere.
    """

    run_id: str
    entries: int
    differences: tuple[Difference, ...]

    @property
    def holds(self) -> bool:
        """Whether the run matches its journal."""
        return not self.differences


async def verify(store: Store, run_id: str) -> Verified:
    """Rebuild a run from its journal and compare it with the run itself at one moment; checks its checkpoints too.

    It is rebuilt from its beginning or, if that is no longer kept, from the oldest checkpoint that is needed.

    *Promise:* the run is not changed, and it may be running. Due times of timers are not compared, because they move
    with Redis's clock. Timers of a run that has ended are not compared either: they disappear when they are due.

    Raises:
        RunNotFound: No such run, or its retention is over.
        HistoryUnavailable: The journal lacks its beginning or the values.
        HistoryDamaged: The journal cannot be replayed, or a checkpoint does not match it; the error names the entry.
        StoreUnavailable: Redis did not answer.
    """
    live = await contents(store, run_id)
    past = await past_entries(store, run_id, through=live.journal)
    is_whole = not past or past[0].seq == 1
    async with _rebuilt(store, run_id, past, is_whole=is_whole) as scratch:
        again = await rebuilt_contents(scratch)
        found = [*differences(again, live)]
        if begins_with_version(past) is not None or not is_whole:
            found += await _in_state(scratch, again)
    return Verified(run_id, len(past), tuple(found))


@asynccontextmanager
async def _rebuilt(store: Store, run_id: str, past: list[Entry], *, is_whole: bool) -> AsyncIterator[Scratch]:
    """The run rebuilt from the earliest point that is kept; compares each checkpoint on the way."""
    checkpoints = (await packed(store, run_id)).checkpoints
    since = None if is_whole else next((name for seq, name in checkpoints.items() if seq >= past[0].seq - 1), None)
    async with rebuilding(store, run_id, past, since) as (scratch, calls):
        done = 0
        for seq, name in checkpoints.items():
            behind = seq - calls[0].entry.seq + 1 if calls else 0  # the number of calls that lead there
            then = await read_checkpoint(store, run_id, name) if done < behind <= len(calls) else None
            if then is None:
                continue
            await scratch.do_again(calls[done:behind])
            done = behind
            again = await rebuilt_contents(scratch)
            state = _between("state", again.flat("state"), then.flat("state"))
            for each in (*differences(again, then), *state):
                raise HistoryDamaged(
                    f"The checkpoint at entry {seq} of run {run_id!r} does not match the journal; the first "
                    f"difference is in {each}.",
                    seq=seq,
                )
        await scratch.do_again(calls[done:])
        yield scratch


async def _in_state(scratch: Scratch, again: Contents) -> list[Difference]:
    """Differences in the state at the version of the run's last write: later runs may have written to it since."""
    state_id = state_id_of(scratch.run_id)
    version = await scratch.store.command("rebuild", "HGET", scratch.keys[f"state:{state_id}:versions"], "v")
    there = await StateHash(scratch.store, scratch.run_id, state_id).read_version(int(version or 0))
    if there is None:
        return []
    return [*_between("state", {name.decode(): value for name, value in again.flat("state").items()}, there)]


def differences(expected: Contents, found: Contents) -> Iterator[Difference]:
    """The differences between two runs, key by key."""
    for name in sorted({*expected.by_name, *found.by_name} - {"state", "versions"}):
        yield from _between(name, _plain(expected, name), _plain(found, name))
    if found.flat("run").get(b"status") == b"running":
        yield from _between("timers", dict.fromkeys(expected.timers, "set"), dict.fromkeys(found.timers, "set"))


def _between(name: str, expected: Any, found: Any) -> Iterator[Difference]:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for field in sorted({*expected, *found}, key=str):
            if expected.get(field) != found.get(field):
                shown = field.decode(errors="replace") if isinstance(field, bytes) else str(field)
                yield Difference(name, shown, expected.get(field), found.get(field))
    elif (expected or None) != (found or None):
        yield Difference(name, "", expected, found)


def _plain(of: Contents, name: str) -> Any:
    """A key's content in comparable form: without the order in which Lua writes maps."""
    content = of.by_name.get(name, [])
    if name.partition(":")[0] == "sent":
        return sorted(content)
    if ":" in name or name == "inbox":
        return [_unpacked(each) for each in content] if name == "inbox" else content
    fields = of.flat(name)
    if name == "run":
        return {field: value for field, value in fields.items() if field not in _ASIDE}
    if name in _SORTED:
        return {member: float(score) for member, score in fields.items()}
    return {field: _unpacked(value) for field, value in fields.items()} if name in _OF_MAPS else fields


def _unpacked(value: bytes) -> Any:
    if not value or value[0] < 0x80:  # a number as text
        return value
    return msgpack.unpackb(value, raw=True, strict_map_key=False)
