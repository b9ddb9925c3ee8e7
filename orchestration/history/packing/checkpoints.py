"""Checkpoints: a run's state at one of its packed entries, compressed. Its later past is rebuilt from there.

With a checkpoint, the entries before it need not be replayed and may be dropped. It is never a second source of truth:
`verify` rebuilds the run from its beginning, as long as that is kept, and compares each checkpoint on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgpack

from ...connection.compression import Compression, compressed, decompressed
from ...connection.keys import DYNAMIC_KEYS, RUN_KEYS, RunKeys, state_id_of
from ...model.errors import HistoryDamaged
from ...snapshots.take import OF_SETS, Contents
from ...store.journal import Entry
from ...store.packed import digest_of
from ...store.verbs import Store

#: Version of the format.
_FORM = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """Which part of a run's history is packed.

    Attributes:
        chunks: First and last number of the entries of each chunk, in order.
        checkpoints: Number of the entry that each checkpoint is at -> its name, in order.
    """

    chunks: tuple[tuple[int, int], ...]
    checkpoints: dict[int, str]

    def names(self) -> Iterator[tuple[int, str]]:
        """Names of all chunks with their last entry, and of all checkpoints with the entry after theirs."""
        yield from ((end, f"{first}-{end}") for first, end in self.chunks)
        yield from ((seq + 1, name) for seq, name in self.checkpoints.items())

    def checkpoint_until(self, seq: int) -> str | None:
        """The name of the last checkpoint at or before an entry."""
        return next((name for at, name in reversed(self.checkpoints.items()) if at <= seq), None)

    def stretches(self) -> Iterator[tuple[int, int]]:
        """The stretches in which the past is rebuilt: from the beginning or a checkpoint to the next one or the end.

        Each is given as the number of the entry before its first one, and the number of its last one.
        """
        if not self.chunks:
            return iter(())
        before = self.chunks[0][0] - 1
        edges = [*([] if before else [0]), *(seq for seq in self.checkpoints if seq >= before), self.chunks[-1][1]]
        return pairwise(edges)


async def packed(store: Store, run_id: str) -> Packed:
    """Which part of a run's history is packed."""
    names = [name.decode() for name in await store.command("read a journal", "HKEYS", store.locate(run_id)["packed"])]
    chunks = sorted((int(first), int(last)) for first, dash, last in (each.partition("-") for each in names) if dash)
    checkpoints = sorted((seq_in(name), name) for name in names if name.startswith("@"))
    return Packed(tuple(chunks), dict(checkpoints))


def name_of(entry: Entry) -> str:
    """The name of the checkpoint at an entry; it contains the entry's number and time."""
    return f"@{entry.seq}@{entry.at}"


def seq_in(name: str) -> int:
    """The entry number in a checkpoint's name."""
    return int(name.split("@")[1])


def instant_in(name: str) -> int:
    """The time in a checkpoint's name, in ms."""
    return int(name.split("@")[2])


async def keep_checkpoint(
    store: Store, entry: Entry, contents: Contents | None, run_id: str, drop: Sequence[str] = ()
) -> None:
    """Store a checkpoint at a packed entry. *Promise:* one script, which may be repeated.

    Args:
        store: The deployment.
        entry: The entry.
        contents: What the run's keys held after it; None stores no checkpoint.
        run_id: The run.
        drop: Names of chunks and checkpoints to delete.
    """
    stored = None if contents is None else _pack(contents, store.settings.history_compression)
    await store.verb("checkpoint", run_id, name=name_of(entry), drop=list(drop) or None, body=stored)


def _pack(contents: Contents, how: Compression) -> bytes:
    plain: bytes = msgpack.packb((dict(contents.timers), dict(contents.by_name)))
    stored: bytes = msgpack.packb((_FORM, digest_of(plain), compressed(plain, how)))
    return stored


async def read_checkpoint(store: Store, run_id: str, name: str) -> Contents | None:
    """What the run's keys held at a checkpoint; None if it is no longer kept.

    Raises:
        HistoryDamaged: The checkpoint is damaged, or a newer release wrote it.
    """
    keys = store.locate(run_id)
    stored = await store.command("read a checkpoint", "HGET", keys["packed"], name)
    if stored is None:
        return None
    try:
        form, digest, content = msgpack.unpackb(stored)
        plain = decompressed(content)
        timers, by_name = msgpack.unpackb(plain)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise _damaged(keys, name, f"it cannot be read ({error})") from error
    if form != _FORM:
        raise _damaged(keys, name, f"a newer release has written it: expected form {_FORM}, found {form}")
    if digest_of(plain) != digest:
        raise _damaged(keys, name, "its digest is not that of its content")
    return Contents(keys, "", timers, by_name)


def _damaged(keys: RunKeys, name: str, why: str) -> HistoryDamaged:
    return HistoryDamaged(
        f"The checkpoint at entry {seq_in(name)} of run {keys.run_id!r} is damaged: {why}. Points from there to the "
        "next one cannot be rebuilt from it; the run itself is not affected. Delete the checkpoint to have them "
        f"rebuilt from the one before: redis-cli HDEL '{keys['packed']}' '{name}'",
        seq=seq_in(name),
    )


def writes(contents: Contents, keys: RunKeys) -> Iterator[tuple[object, ...]]:
    """The commands that write a run's contents to these keys."""
    for name, content in contents.by_name.items():
        if not content:
            continue
        kind = name.partition(":")[0]
        if name in ("state", "versions"):
            state = f"state:{state_id_of(keys.run_id)}"
            yield ("HSET", keys[state if name == "state" else f"{state}:versions"], *content)
            continue
        is_dynamic = kind in DYNAMIC_KEYS and ":" in name
        of_type = DYNAMIC_KEYS[kind][1] if is_dynamic else RUN_KEYS[name].type
        if is_dynamic:
            yield ("SADD", keys["extra"], keys[name])
        if of_type == "ZSET":
            scored = zip(content[1::2], content[::2], strict=True)
            yield ("ZADD", keys[name], *(part for pair in scored for part in pair))
        else:
            yield (_PUT[of_type], keys[name], *content)
    for rest, due in contents.timers.items():
        if rest.partition("|")[0] in OF_SETS:
            kind, _, buffer = rest.partition("|")
            yield ("ZADD", keys["outbox"], due, f"{kind}|{keys.run_id}|{buffer}")
            continue
        kind = "timeout" if not rest else "waiter" if "|" in rest else "retry"
        yield ("ZADD", keys["timers"], due, f"{kind}|{keys.run_id}" + (f"|{rest}" if rest else ""))


_PUT = {"HASH": "HSET", "LIST": "RPUSH", "SET": "SADD"}
