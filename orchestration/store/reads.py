"""Reading runs: what a client, a monitor or a deciding worker looks at. Nothing here changes anything."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..model.envelope import Envelope
from ..model.errors import RunClosed, RunNotFound
from ..model.plan import Plan
from ..model.work_item import InboxEvent, Surroundings, Waiter, Work
from .asks import Command, ScriptCall
from .keys import Keys, RunKeys
from .pipeline import Connection
from .replies import RunRecord, not_found, pairs, run_record, unpack_raw
from .scripts import unpack
from .settings import Settings

#: Members of a fan-in are read in pages of this many.
MEMBERS_PAGE = 500


class StoreReads:
    """Connection, key names, and everything that only reads."""

    def __init__(self, connection: Connection, settings: Settings, *, patience_seconds: float | None = None) -> None:
        """Args:
        connection: To the state Redis.
        settings: Equal in all processes of a deployment.
        patience_seconds: How long an outage is waited out before `StoreUnavailable`; by default as the connection does.
        """
        self.connection = connection
        self.settings = settings
        self.keys = Keys(settings.key_prefix, settings.shards)
        self.patience_seconds = connection.patience_seconds if patience_seconds is None else patience_seconds
        self._plans: dict[str, Plan] = {}
        self._located = lru_cache(4096)(self.keys.of_run)

    async def command(self, what: str, *command: Any, name: str = "") -> Any:
        """Send one command that may be repeated; see `Connection.command`."""
        return await self.connection.command(what, *command, name=name, patience_seconds=self.patience_seconds)

    async def batch(self, what: str, *items: Command | ScriptCall[Any]) -> list[Any]:
        """Send commands and scripts that may be repeated, together; see `Connection.batch`."""
        return await self.connection.batch(what, items, patience_seconds=self.patience_seconds)

    def locate(self, run_id: str) -> RunKeys:
        """The keys of a run."""
        return self._located(run_id)

    async def members(self, work: Work) -> list[Envelope]:
        """The events a fan-in has gathered, in arrival order, read in pages.

        Raises:
            RunClosed: They are not there any more: another attempt has committed. Nobody may work on what is left.
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
                f"{work.members} events it gathered, {len(gathered)} are left."
            )
        return gathered

    async def surroundings(self, run_id: str) -> Surroundings:
        """Waiters and inbox of a run, with the version a commit checks; as of one instant."""
        keys = self.locate(run_id)
        version, waiters, inbox = await self.connection.transaction(
            "look at waiters",
            ("HGET", keys["run"], "wv"),
            ("HGETALL", keys["waiters"]),
            ("LRANGE", keys["inbox"], 0, -1),
            patience_seconds=self.patience_seconds,
        )
        kept = [unpack_raw(raw) for raw in inbox]
        return Surroundings(
            int(version or 0),
            tuple(Waiter.from_bytes(name.decode(), data) for name, data in pairs(waiters).items()),
            tuple(InboxEvent(raw[b"id"].decode(), Envelope.from_bytes(raw[b"d"])) for raw in kept),
        )

    async def run(self, run_id: str) -> RunRecord:
        """One run as it stands.

        Raises:
            RunNotFound: No such run, or its retention is over.
        """
        raw = pairs(await self.command("read a run", "HGETALL", self.locate(run_id)["run"]))
        if b"created_at" not in raw:  # nothing there, or not begun: a snapshot that is being restored
            raise RunNotFound(not_found(run_id))
        return run_record(run_id, raw)

    async def plan(self, run_id: str, digest: str) -> Plan:
        """The plan a run started with, remembered per process by its digest.

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

    async def journal(self, run_id: str) -> list[tuple[int, str, Any]]:
        """The run's journal: (Redis time in ms, kind, data), oldest first."""
        entries = await self.command("read a journal", "XRANGE", self.locate(run_id)["journal"], "-", "+")
        found = []
        for entry_id, flat in entries:
            fields = pairs(flat)
            found.append((int(entry_id.split(b"-")[0]), fields[b"k"].decode(), unpack(fields[b"d"])))
        return found
