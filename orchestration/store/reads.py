"""Reading runs, for clients, monitors and workers that decide. Nothing here writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ..connection.deployment import Deployment
from ..connection.keys import Keys, RunKeys
from ..connection.settings import Settings
from ..model.decide import CHUNK
from ..model.envelope import Envelope
from ..model.errors import RunClosed, RunNotFound, StoreUnavailable
from ..model.plan import Plan
from ..model.waiters import InboxEvent, Kind, Seen, Surroundings, Waiter, digests
from ..model.work_item import Work
from .asks import Command, ScriptCall
from .pipeline import Connection
from .replies import RunRecord, not_found, pairs, run_record, unpack_raw

logger = logging.getLogger("umbel.store")

#: Members of a fan-in are read in pages of this many.
MEMBERS_PAGE = 500


#: Counters of changes, see `lua/lib/waiters.lua`.
_COUNTS = ("wv", "wa", "wr", "ia")


def _numbers(counts: Sequence[bytes | None]) -> list[int]:
    return [int(count or 0) for count in counts]


def _unknown(changes: int, added: int, removed: int, kept: int) -> int:
    """Changes of an unknown kind, which an older release made: the index lacks them."""
    return changes - added - removed - kept


def _inbox_event(raw: bytes) -> InboxEvent:
    kept = unpack_raw(raw)
    return InboxEvent(kept[b"id"].decode(), Envelope.from_bytes(kept[b"d"]))


#: Each step that begins to wait reads the whole inbox, which seldom differs much from what the previous one has read.
_small_inbox_event = lru_cache(2048)(_inbox_event)
_SMALL = 1024


def _surroundings(
    counts: Sequence[bytes | None], waiters: Sequence[bytes], inbox: Sequence[bytes] = ()
) -> Surroundings:
    numbers = _numbers(counts)
    unknown, (_, added, _, kept) = _unknown(*numbers), numbers
    return Surroundings(
        added + unknown,
        tuple(Waiter.from_bytes(name.decode(), data) for name, data in pairs(waiters).items()),
        tuple(_small_inbox_event(raw) if len(raw) <= _SMALL else _inbox_event(raw) for raw in inbox),
        kept + unknown,
    )


class StoreReads:
    """Connection, key names, and everything that only reads."""

    def __init__(self, connection: Connection, settings: Settings, *, patience_seconds: float | None = None) -> None:
        """Args:
        connection: To the state Redis.
        settings: Equal in all processes of a deployment.
        patience_seconds: How long to retry during an outage before `StoreUnavailable`; by default the connection's.
        """
        self.connection = connection
        self.settings = settings
        self.keys = Keys(settings.key_prefix, settings.shards, connection.database)
        connection.deployment = Deployment(settings.key_prefix, settings.shards)
        self.patience_seconds = connection.patience_seconds if patience_seconds is None else patience_seconds
        self._plans: dict[str, Plan] = {}
        self._located = lru_cache(4096)(self.keys.of_run)

    async def command(self, what: str, *command: Any, name: str = "") -> Any:
        """Send one command that may be repeated; see `Connection.command`."""
        return await self.connection.command(what, *command, name=name, patience_seconds=self.patience_seconds)

    async def batch(self, what: str, *items: Command | ScriptCall[Any]) -> list[Any]:
        """Send commands and scripts that may be repeated, together; see `Connection.batch`."""
        return await self.connection.batch(what, items, patience_seconds=self.patience_seconds)

    async def reached(self, what: str, *items: Command | ScriptCall[Any]) -> list[Any]:
        """Like `batch`, as far as a cluster can be reached: None for what a node has not answered.

        Raises:
            StoreUnavailable: Nothing was answered.
        """
        if self.connection.spans_shards:
            return await self.batch(what, *items)
        replies = await asyncio.gather(*(self.batch(what, item) for item in items), return_exceptions=True)
        faults = [reply for reply in replies if isinstance(reply, BaseException)]
        if faults and not (len(faults) < len(items) and all(isinstance(fault, StoreUnavailable) for fault in faults)):
            raise faults[0]
        if faults:
            text = "%d of %d questions to the shards were not answered, the others go on: %s"
            logger.warning(text, len(faults), len(items), faults[0], extra={"action": "shards_unreached"})
        return [None if isinstance(reply, BaseException) else reply[0] for reply in replies]

    async def everywhere(self, what: str, *command: Any) -> list[Any]:
        """Send one command to each server that stores runs; see `Connection.everywhere`."""
        return await self.connection.everywhere(what, *command, patience_seconds=self.patience_seconds)

    def locate(self, run_id: str) -> RunKeys:
        """The keys of a run."""
        return self._located(run_id)

    async def members(self, work: Work) -> list[Envelope]:
        """The events a fan-in has gathered, in arrival order, read in pages.

        Raises:
            RunClosed: They are no longer there: another attempt has committed. The ones left must not be used.
        """
        assert work.scope_id is not None
        assert work.members is not None
        key = self.locate(work.run_id)[f"members:{work.scope_id}:{work.step}"]
        gathered: list[Envelope] = []
        for start in range(0, work.members, MEMBERS_PAGE):
            stop = min(start + MEMBERS_PAGE, work.members) - 1
            page = await self.command("read a fan-in", "LRANGE", key, start, stop)
            gathered.extend(Envelope.from_bytes(raw) for raw in page)
        if len(gathered) != work.members:
            raise RunClosed(
                f"Step {work.step!r} of run {work.run_id!r} (attempt {work.attempt}) is obsolete: of the "
                f"{work.members} events it gathered, {len(gathered)} are left.",
                work.claim_id,
            )
        return gathered

    async def surroundings(self, run_id: str) -> Surroundings:
        """All waiters and the inbox of a run, with the versions that scripts check; read atomically."""
        keys = self.locate(run_id)
        counts, waiters, inbox = await self.connection.transaction(
            "look at waiters",
            ("HMGET", keys["run"], *_COUNTS),
            ("HGETALL", keys["waiters"]),
            ("LRANGE", keys["inbox"], 0, -1),
            patience_seconds=self.patience_seconds,
        )
        return _surroundings(counts, waiters, inbox)

    async def inbox(self, run_id: str) -> Surroundings:
        """What matters to a step that begins to wait: the inbox, and its version."""
        keys = self.locate(run_id)
        counts, inbox = await self.connection.transaction(
            "look into the inbox",
            ("HMGET", keys["run"], *_COUNTS),
            ("LRANGE", keys["inbox"], 0, -1),
            patience_seconds=self.patience_seconds,
        )
        return _surroundings(counts, (), inbox)

    async def waiters_for(self, run_id: str, events: Sequence[Envelope]) -> Surroundings:
        """What matters to the routing of events: the waiters that one of them may answer, and their version.

        While there are few waiters, all of them; otherwise those that the index finds, in time that does not grow with
        their number. A waiter that is added after the version was read makes the version outdated, whether it was seen
        or not. So the later reads need not be atomic with the first.
        """
        keys, few = self.locate(run_id), self.settings.waiters_indexed_from
        counts, (cursor, waiters), kinds, total = await self.connection.transaction(
            "look at waiters",
            ("HMGET", keys["run"], *_COUNTS),
            ("HSCAN", keys["waiters"], 0, "COUNT", max(few, 1)),
            ("ZRANGEBYLEX", keys["waiting"], "[#", "($"),
            ("HLEN", keys["waiters"]),
            patience_seconds=self.patience_seconds,
        )
        if cursor == b"0" and total <= few:
            return _surroundings(counts, waiters)
        wanted = None
        if kinds and _unknown(*_numbers(counts)) == 0:
            with suppress(RecursionError):
                wanted = digests([Kind.from_text(text[1:].decode()) for text in kinds], events)
        if wanted is None or len(wanted) > total:
            waiters = await self.command("look at all waiters", "HGETALL", keys["waiters"])
            return _surroundings(counts, waiters)
        asked = [("ZRANGEBYLEX", keys["waiting"], f"[{digest}|", f"({digest}}}") for digest in wanted]
        found = await self.batch("look up waiters", *asked) if asked else []
        fields = [member.partition(b"|")[2] for members in found for member in members]
        stored = await self.command("look at waiters", "HMGET", keys["waiters"], *fields) if fields else []
        flat = [part for pair in zip(fields, stored, strict=True) if pair[1] is not None for part in pair]
        seen = Seen(len(kinds), {digest: len(members) for digest, members in zip(wanted, found, strict=True)})
        return replace(_surroundings(counts, flat), seen=seen if len(wanted) <= CHUNK else None)

    async def run(self, run_id: str) -> RunRecord:
        """One run as it is now.

        Raises:
            RunNotFound: No such run, or its retention is over.
        """
        raw = pairs(await self.command("read a run", "HGETALL", self.locate(run_id)["run"]))
        if b"created_at" not in raw:  # nothing there, or not begun: a snapshot that is being restored
            raise RunNotFound(not_found(run_id))
        return run_record(run_id, raw)

    async def runs(self, run_ids: Sequence[str]) -> list[RunRecord]:
        """These runs as they are now, in this order, without those that do not exist. One round trip."""
        asked = [("HGETALL", self.locate(run_id)["run"]) for run_id in run_ids]
        found = zip(run_ids, map(pairs, await self.batch("read runs", *asked) if asked else []), strict=True)
        return [run_record(run_id, raw) for run_id, raw in found if b"created_at" in raw]

    async def plan(self, run_id: str, digest: str) -> Plan:
        """The plan a run started with, cached per process by its digest.

        Raises:
            RunNotFound: It is not in Redis.
        """
        known = self._plans.get(digest)
        if known is None:
            data = await self.command("read a plan", "GET", self.locate(run_id)[f"plan:{digest}"])
            if data is None:
                raise RunNotFound(f"The plan {digest} of run {run_id!r} is not in Redis. Was the database replaced?")
            known = self._plans[digest] = Plan.from_json(data)
        return known

    def known_plan(self, digest: str) -> Plan | None:
        """The plan, if this process has read it before."""
        return self._plans.get(digest)

    async def plan_of(self, run_id: str) -> Plan:
        """The plan of a run.

        Raises:
            RunNotFound: No such run.
        """
        digest = await self.command("read a run", "HGET", self.locate(run_id)["run"], "plan")
        if digest is None:
            raise RunNotFound(not_found(run_id))
        return await self.plan(run_id, digest.decode())

    async def active_steps(self, run_id: str) -> list[str]:
        """Names of the steps that hold a slot."""
        fields = await self.command("read slots", "HKEYS", self.locate(run_id)["slots"])
        return sorted({name.decode().partition("/")[0] for name in fields if b"/" in name})
