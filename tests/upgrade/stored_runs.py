"""Loads a Redis that an older release has written.

The file holds every key as plain values, so that any Redis or Valkey can load it. Instants are moved: what was due in
five seconds when the file was written is due in five seconds after loading.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import redis

#: An instant in decimal digits, in milliseconds or microseconds; durations and counters are shorter.
_WRITTEN = re.compile(rb"(?<!\d)1[78]\d{11}(\d{3})?(?!\d)")
#: An instant in a msgpack record: an unsigned integer of eight bytes, in milliseconds.
_PACKED = re.compile(rb"(?<=\xcf)\x00\x00\x01[\x80-\xff].{4}", re.DOTALL)


class StoredRuns:
    """The content of a Redis, as an older release left it."""

    def __init__(self, path: Path) -> None:
        stored = json.loads(gzip.decompress(path.read_bytes()))
        self._key_prefix: str = stored["key_prefix"]
        self._written_at: int = stored["written_at"]
        self._keys: list[tuple[str, str, int, Any]] = stored["keys"]

    def load(self, client: redis.Redis[bytes], key_prefix: str, *, with_messages: bool = True) -> None:
        """Write everything into a Redis.

        Args:
            client: Decodes nothing.
            key_prefix: Of the deployment that takes the runs over.
            with_messages: Whether the broker's queues come along; False is an upgrade that lost them.
        """
        self._shift = round(time.time() * 1000) - self._written_at
        pipe = client.pipeline()
        for name, kind, ttl, content in self._keys:
            if ":broker:" in name and not with_messages:
                continue
            key = name.replace(self._key_prefix, key_prefix, 1).encode("latin-1")
            if kind == "hash":
                pipe.hset(key, mapping={self._bytes(field): self._bytes(value) for field, value in content})
            elif kind == "zset":
                pipe.zadd(key, {self._bytes(member): self._score(score) for member, score in content})
            elif kind == "list":
                pipe.rpush(key, *map(self._bytes, content))
            elif kind == "set":
                pipe.sadd(key, *map(self._bytes, content))
            elif kind == "string":
                pipe.set(key, self._bytes(content))
            else:
                for entry_id, fields in content["entries"]:
                    pipe.xadd(key, {self._bytes(field): self._bytes(value) for field, value in fields}, id=entry_id)
                pipe.execute_command("XSETID", key, content["last"])
            if ttl >= 0:
                pipe.pexpire(key, ttl)
        pipe.execute()

    def _bytes(self, text: str) -> bytes:
        """The value with its instants moved; they keep their length."""
        written = _WRITTEN.sub(self._move_written, text.encode("latin-1"))
        return _PACKED.sub(lambda found: (int.from_bytes(found[0]) + self._shift).to_bytes(8), written)

    def _move_written(self, found: re.Match[bytes]) -> bytes:
        return b"%d" % (int(found[0]) + self._shift * (1000 if found[1] else 1))

    def _score(self, score: float) -> float:
        if score > 1e15:
            return score + self._shift * 1000
        return score + self._shift if score > 1e12 else score
