"""Scratch keys in which a run's past is rebuilt: in the run's shard, private to one rebuild, with an expiry."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..connection.keys import DYNAMIC_KEYS, RUN_KEYS, RunKeys, new_nonce
from ..model.errors import HistoryDamaged
from ..store.calls import fixed_keys
from ..store.scripts import load, unpack
from ..store.verbs import Store
from .calls import PastCall

#: Keys that a crash leaves behind expire after this time.
LIFE_MS = 600_000

#: Entries replayed by one script, which must stay short.
AT_A_TIME = 40


@dataclass(frozen=True, slots=True)
class ScratchKeys(RunKeys):
    """Scratch counterparts of all keys that scripts on a run touch.

    Attributes:
        name: Distinguishes this set of keys from others.
    """

    name: str = ""

    @property
    def stem(self) -> str:
        """The common prefix of its dynamic keys."""
        return f"{self.tag}rebuilt:{self.name}:{self.run_id}:"

    def __getitem__(self, name: str) -> str:
        """The scratch key for a logical name."""
        kind, colon, rest = name.partition(":")
        if name in RUN_KEYS:
            return self.stem[:-1] + RUN_KEYS[name].suffix
        if colon and kind in DYNAMIC_KEYS:
            return self.stem[:-1] + DYNAMIC_KEYS[kind][0] + rest
        return f"{self.stem}beside:{name}"


class Scratch:
    """The scratch keys of one rebuild."""

    def __init__(self, store: Store, run_id: str) -> None:
        """Args:
        store: The deployment.
        run_id: The run that is rebuilt.
        """
        own = store.locate(run_id)
        self.store, self.run_id = store, run_id
        self._done = 0
        self._put, self._put_at = set[str](), 0.0
        self.keys = ScratchKeys(own.run_id, own.shard, own.tag, new_nonce())

    async def do_again(self, calls: Sequence[PastCall], *, details: bool = False) -> list[Any]:
        """Replay calls in order.

        Args:
            calls: The calls.
            details: Also return what attempts received or did in each call: see `DETAILS` in `replay.lua`.

        Returns:
            With `details`, one per call; None where there are none. Otherwise empty.

        Raises:
            HistoryDamaged: A call does not answer as it did then: the journal is insufficient or damaged.
        """
        found: list[Any] = []
        for start in range(0, len(calls), AT_A_TIME):
            await self._keep_put()
            some = calls[start : start + AT_A_TIME]
            names = sorted(frozenset().union(*(call.names for call in some)))
            _, packed = await self.store.verb(
                "replay",
                self.run_id,
                keys=self.keys,
                first=self._done,
                names=names,
                life=LIFE_MS,
                details=details or None,
                body=[call.wire for call in some],
                extra={name: self.keys[name] for name in names},
            )
            self._done += len(some)
            for call, answered in zip(some, unpack(packed), strict=True):
                answer, *more = answered if details else (answered,)
                found += [None if each is False else each for each in more]
                if answer not in call.answers:
                    raise HistoryDamaged(
                        f"Entry {call.entry.seq} ({call.entry.kind}) of the journal of run {self.run_id!r} cannot be "
                        f"applied again: expected {' or '.join(call.answers)}, found {answer}.",
                        seq=call.entry.seq,
                    )
        return found

    async def put(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """Execute write commands on scratch keys. Each is followed by setting its key's expiry."""
        written = [(command, ("PEXPIRE", command[1], LIFE_MS)) for command in commands]
        await self.store.batch("rebuild a run", *(each for pair in written for each in pair))
        self._put, self._put_at = {command[1] for command, _ in written}, time.monotonic()

    async def _keep_put(self) -> None:
        """Extend the expiry of keys from `put`: the replay may not touch them but still needs them."""
        if self._put and time.monotonic() - self._put_at > LIFE_MS / 4000:
            self._put_at = time.monotonic()
            await self.store.batch("rebuild a run", *(("PEXPIRE", key, LIFE_MS) for key in self._put))

    async def drop(self) -> None:
        """Delete the keys. If a crash prevents that, they expire."""
        dynamic = await self.store.command("list keys", "SMEMBERS", self.keys["extra"])
        fixed = fixed_keys(self.keys, load("replay").keys)
        await self.store.command("drop a rebuilt run", "UNLINK", *fixed, *dynamic)
