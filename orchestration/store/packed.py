"""Entries of a journal that were packed: many in one compressed chunk, each chunk chained to the one before by digest.

`lua/pack.lua` replaces entries with their chunk; `journal.py` reads them as if they were still in the journal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from ..connection.compression import Compression, compressed, decompressed
from ..model.errors import HistoryDamaged

#: An entry of a stream as Redis returns it: its id, and its fields as a flat list.
RawEntry = Sequence[Any]

#: Version of the format. A reader of an older release does not look for chunks: to it, packed entries were removed.
_FORM = 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive entries.

    Attributes:
        first: The number of the first one.
        entries: All of them.
        before: Digest of the chunk before it; empty for the first one.
        digest: Its own digest, of `before` and its entries.
    """

    first: int
    entries: Sequence[RawEntry]
    before: bytes
    digest: bytes

    @property
    def name(self) -> str:
        """Its field in the hash of chunks."""
        return f"{self.first}-{self.first + len(self.entries) - 1}"


def pack_chunk(first: int, entries: Sequence[RawEntry], before: bytes, how: Compression) -> tuple[Chunk, bytes]:
    """Make a chunk of entries; returns the chunk, and its bytes as they are stored."""
    plain: bytes = msgpack.packb(entries)
    chunk = Chunk(first, entries, before, digest_of(before, plain))
    stored: bytes = msgpack.packb((_FORM, before, chunk.digest, compressed(plain, how)))
    return chunk, stored


def read_chunk(run_id: str, name: str, stored: bytes) -> Chunk:
    """Decode the chunk that is stored under a name.

    Raises:
        HistoryDamaged: It is not what was stored, or a newer release has written it.
    """
    first, last = (int(number) for number in name.split("-"))
    try:
        form, before, digest, content = msgpack.unpackb(stored)
        plain = decompressed(content)
        entries = msgpack.unpackb(plain)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise _damaged(run_id, name, f"it cannot be read ({error})", last) from error
    if form != _FORM:
        raise _damaged(run_id, name, f"a newer release has written it: expected form {_FORM}, found {form}", last)
    if digest_of(before, plain) != digest:
        raise _damaged(run_id, name, "its digest is not that of its content", last)
    if len(entries) != last - first + 1:
        raise _damaged(run_id, name, f"expected {last - first + 1} entries, found {len(entries)}", last)
    return Chunk(first, entries, before, digest)


def digest_of(*parts: bytes) -> bytes:
    """A digest by which a change of the parts is detected."""
    return hashlib.sha256(b"".join(parts)).digest()[:16]


def _damaged(run_id: str, name: str, why: str, last: int) -> HistoryDamaged:
    return HistoryDamaged(
        f"Entries {name} of the journal of run {run_id!r}, which were packed, are damaged: {why}. Points from them on "
        "cannot be rebuilt; the run itself is not affected.",
        seq=last,
    )
