"""The journal of a run as it is stored: one entry per applied change, oldest first. See `lua/lib/journal.lua`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .asks import ScriptCall
from .packed import RawEntry, read_chunk
from .reads import StoreReads
from .replies import pairs, unpack_raw
from .scripts import load, pack, unpack

#: Entries are read in pages of this many.
PAGE = 200
#: No journal has this many entries.
_BEYOND = 1 << 52


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        seq: Its number in the journal, from 1; entries that are no longer kept are counted.
        entry_id: Its id in Redis.
        fields: As they are stored.
    """

    seq: int
    entry_id: str
    fields: Mapping[bytes, bytes]

    @property
    def at(self) -> int:
        """When it was written, in Redis ms."""
        return int(self.entry_id.partition("-")[0])

    @property
    def kind(self) -> str:
        """What was done: `start`, `claim`, `commit`, …"""
        return self.fields[b"k"].decode()

    @cached_property
    def about(self) -> Any:
        """What happened, for people."""
        return unpack(self.fields[b"d"])

    @cached_property
    def arguments(self) -> dict[bytes, Any]:
        """What the function was called with; empty where the journal does not keep it."""
        return unpack_raw(self.fields[b"i"]) if b"i" in self.fields else {}

    @cached_property
    def commands(self) -> list[dict[str, Any]]:
        """What was applied, where the journal keeps it."""
        return unpack(self.fields[b"c"]) if b"c" in self.fields else []

    @property
    def work_id(self) -> str:
        """The work item that it is about; empty when it is about the run or several items."""
        if isinstance(self.about, dict) and "w" in self.about:
            return str(self.about["w"])
        return bytes(self.arguments.get(b"w", b"")).decode()

    @property
    def raw(self) -> RawEntry:
        """As Redis returns it."""
        return self.entry_id.encode(), [part for field in self.fields.items() for part in field]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return sum(map(len, self.fields.values()))


@dataclass(frozen=True, slots=True)
class Extent:
    """What is kept of a journal.

    Attributes:
        first: Number of the oldest entry that is kept; one more than `last` if none is.
        last: Number of the last one.
        unpacked: Number of the oldest one that was not packed.
    """

    first: int
    last: int
    unpacked: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some consecutive entries, and how many there are in all.

    Attributes:
        entries: Oldest first; read backwards, newest first.
        is_packed: Whether they come from one packed chunk; there may be more.
        cut: How many entries are no longer in the journal itself.
        total: How many it had in all.
    """

    entries: list[Entry]
    is_packed: bool
    cut: int
    total: int


async def entries(
    store: StoreReads, run_id: str, *, after: Entry | int = 0, through: str = "+"
) -> AsyncIterator[Entry]:
    """The entries that are kept, oldest first, packed ones included; reads them in pages.

    *Promise:* each entry that is kept is read once and in order, even while entries are being packed.

    Args:
        store: The runs.
        run_id: The run.
        after: Only entries after this one; an entry or its number.
        through: Id of the last entry to read.

    Raises:
        HistoryDamaged: A packed chunk cannot be read.
    """
    wanted, last_id = (after + 1, None) if isinstance(after, int) else (after.seq + 1, after.entry_id)
    limit = None if through == "+" else place_of(through)
    while True:
        page = await read_page(store, run_id, wanted, last_id)
        for entry in page.entries:
            if limit is not None and place_of(entry.entry_id) > limit:
                return
            if entry.seq >= wanted:
                wanted, last_id = entry.seq + 1, entry.entry_id
                yield entry
        if not page.is_packed and len(page.entries) < PAGE:
            return


async def newest_entries(store: StoreReads, run_id: str) -> AsyncIterator[Entry]:
    """Like `entries`, newest first."""
    wanted, last_id = None, None
    while wanted is None or wanted > 0:
        page = await read_page(store, run_id, wanted, last_id, backwards=True)
        if not page.entries:
            return
        for entry in page.entries:
            if wanted is None or entry.seq <= wanted:
                wanted, last_id = entry.seq - 1, entry.entry_id
                yield entry


async def extent(store: StoreReads, run_id: str) -> Extent:
    """Which entries of a run's journal are kept."""
    [(kind, cut, total, *rest)] = await store.batch("read a journal", _past(store, run_id, w=1, n=0))
    first = int(rest[0].partition(b"-")[0]) if kind == b"packed" else cut + 1
    return Extent(first, total, cut + 1)


async def unpacked(store: StoreReads, run_id: str, most: int) -> Page:
    """The oldest entries that were not packed."""
    return await read_page(store, run_id, _BEYOND, most=most)


async def read_page(
    store: StoreReads,
    run_id: str,
    wanted: int | None,
    beside: str | None = None,
    *,
    backwards: bool = False,
    most: int = PAGE,
) -> Page:
    """The page that contains an entry or, if that is not kept, the next one that exists.

    Args:
        store: The runs.
        run_id: The run.
        wanted: The entry's number; None is the last one.
        beside: Id of the entry before it; when reading backwards, of the one after it.
        backwards: Read from there towards the oldest.
        most: Maximum number of entries that were not packed.
    """
    call = _past(store, run_id, w=wanted, id=beside, back=backwards or None, n=most)
    [(kind, cut, total, *rest)] = await store.batch("read a journal", call)
    if kind == b"packed":
        chunk = read_chunk(run_id, rest[0].decode(), rest[1])
        found = [_entry(seq, *raw) for seq, raw in enumerate(chunk.entries, chunk.first)]
        return Page(found[::-1] if backwards else found, True, cut, total)
    if backwards:
        start, step = total if wanted is None else wanted, -1
    else:
        start, step = max(wanted or 1, cut + 1) if beside else cut + 1, 1
    found = [_entry(start + step * place, *raw) for place, raw in enumerate(rest[0])]
    return Page(found, False, cut, total)


def _past(store: StoreReads, run_id: str, **args: Any) -> ScriptCall[list[Any]]:
    script, keys = load("past"), store.locate(run_id)
    given = {name: value for name, value in args.items() if value is not None}
    return ScriptCall("read a journal", script, [keys[name] for name in script.keys], [pack(given)], list)


def _entry(seq: int, raw_id: bytes, flat: list[bytes]) -> Entry:
    return Entry(seq, raw_id.decode(), pairs(flat))


def place_of(entry_id: str) -> tuple[int, int]:
    """Sort key of the entries of one journal."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
