"""The journal of a run as it is kept: one entry per applied change, oldest first. See `lua/lib/journal.lua`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .reads import StoreReads
from .replies import pairs, unpack_raw
from .scripts import unpack

#: Entries are read in pages of this many.
PAGE = 200


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        seq: Its number in the journal, from 1; entries that are no longer kept are counted.
        entry_id: Its id in Redis.
        fields: As they are kept.
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
    def size(self) -> int:
        """Its bytes."""
        return sum(map(len, self.fields.values()))


async def entries(store: StoreReads, run_id: str, *, through: str = "+") -> AsyncIterator[Entry]:
    """The entries that are kept, oldest first, in pages.

    Args:
        store: The runs.
        run_id: The run.
        through: Id of the last entry to read.
    """
    seq = await store.journal_cut(run_id)
    key, after = store.locate(run_id)["journal"], "-"
    while page := await store.command("read a journal", "XRANGE", key, after, through, "COUNT", PAGE):
        for raw_id, flat in page:
            seq += 1
            yield Entry(seq, raw_id.decode(), pairs(flat))
        after = f"({page[-1][0].decode()}"
