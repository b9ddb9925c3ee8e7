"""Checkpoints: what a run was at one of its packed entries, compressed, from where its later past is rebuilt.

A checkpoint spares the entries before it from being done again, and lets them go. It is never a second source: `verify`
rebuilds the run from its beginning, as long as that is kept, and compares each checkpoint on the way.
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

#: Of this form.
_FORM = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """What of a run's past is packed.

    Attributes:
        chunks: First and last number of the entries of each chunk, in order.
        checkpoints: Number of the entry that each checkpoint stands at -> its name, in order.
    """

    chunks: tuple[tuple[int, int], ...]
    checkpoints: dict[int, str]

    def names(self) -> Iterator[tuple[int, str]]:
        """Names of all chunks, each with its last entry, and of all checkpoints with the entry behind theirs."""
        yield from ((end, f"{first}-{end}") for first, end in self.chunks)
        yield from ((seq + 1, name) for seq, name in self.checkpoints.items())

    def checkpoint_until(self, seq: int) -> str | None:
        """The name of the last checkpoint up to an entry."""
        return next((name for at, name in reversed(self.checkpoints.items()) if at <= seq), None)

    def stretches(self) -> Iterator[tuple[int, int]]:
        """From where to where the past is rebuilt: from the beginning or a checkpoint to the next one, or to the end.

        Each is the number of the entry that it begins behind, and that of its last one.
        """
        if not self.chunks:
            return iter(())
        before = self.chunks[0][0] - 1
        edges = [*([] if before else [0]), *(seq for seq in self.checkpoints if seq >= before), self.chunks[-1][1]]
        return pairwise(edges)


async def packed(store: Store, run_id: str) -> Packed:
    """What of a run's past is packed."""
    names = [name.decode() for name in await store.command("read a journal", "HKEYS", store.locate(run_id)["packed"])]
    chunks = sorted((int(first), int(last)) for first, dash, last in (each.partition("-") for each in names) if dash)
    checkpoints = sorted((seq_in(name), name) for name in names if name.startswith("@"))
    return Packed(tuple(chunks), dict(checkpoints))


def name_of(entry: Entry) -> str:
    """The name of the checkpoint at an entry; it says when that was."""
    return f"@{entry.seq}@{entry.at}"


def seq_in(name: str) -> int:
    """The number of that entry."""
    return int(name.split("@")[1])


def instant_in(name: str) -> int:
    """When that was, in ms."""
    return int(name.split("@")[2])


async def keep_checkpoint(
    store: Store, entry: Entry, contents: Contents | None, run_id: str, drop: Sequence[str] = ()
) -> None:
    """Keep what a run was at an entry that is packed. *Promise:* one script, which may be asked again.

    Args:
        store: The deployment.
        entry: The entry.
        contents: What the run's keys held after it; None is not kept.
        run_id: The run.
        drop: Names of chunks and checkpoints that are not to be kept any more.
    """
    stored = None if contents is None else _pack(contents, store.settings.history_compression)
    await store.verb("checkpoint", run_id, name=name_of(entry), drop=list(drop) or None, body=stored)


def _pack(contents: Contents, how: Compression) -> bytes:
    plain: bytes = msgpack.packb((dict(contents.timers), dict(contents.by_name)))
    stored: bytes = msgpack.packb((_FORM, digest_of(plain), compressed(plain, how)))
    return stored


async def read_checkpoint(store: Store, run_id: str, name: str) -> Contents | None:
    """What the run's keys held at a checkpoint; None if it is not kept any more.

    Raises:
        HistoryDamaged: It is not what was stored.
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
    """The commands that make keys hold what a run's keys held."""
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
