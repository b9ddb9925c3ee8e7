"""Reading runs: what a client, a monitor or a deciding worker looks at. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from ..model.envelope import Envelope
from ..model.errors import RunClosed, RunNotFound
from ..model.plan import Plan
from ..model.work_item import InboxEvent, Surroundings, Waiter, Work
from .connection import Client, persist
from .keys import Keys, RunKeys
from .replies import RunRecord, not_found, run_record, unpack_raw
from .scripts import unpack
from .settings import Settings

#: Members of a fan-in are read in pages of this many.
PAGE = 500


class BlockingReads:
    """Connection, key names, and everything that only reads."""

    def __init__(self, client: Client, settings: Settings, *, patience_seconds: float = 5.0) -> None:
        """Args:
        client: Connection to the state Redis.
        settings: Equal in all processes of a deployment.
        patience_seconds: How long a verb waits out an outage before `StoreUnavailable`.
        """
        self.client = client
        self.settings = settings
        self.keys = Keys(settings.key_prefix, settings.shards)
        self.patience_seconds = patience_seconds
        self._plans: dict[str, Plan] = {}
        self._located = lru_cache(4096)(self.keys.of_run)

    def read(self, what: str, call: Callable[[], Any]) -> Any:
        """ScriptCall Redis, again and again while it does not answer.

        Args:
            what: What is being done, for the error.
            call: The question; it changes nothing.

        Raises:
            StoreUnavailable: No answer within the patience.
        """
        return persist(call, what=what, url=self.settings.redis_url or "", patience_seconds=self.patience_seconds)

    def locate(self, run_id: str) -> RunKeys:
        """The keys of a run."""
        return self._located(run_id)

    def members(self, work: Work) -> list[Envelope]:
        """The events a fan-in has gathered, in arrival order, read in pages.

        Raises:
            RunClosed: They are not there any more: another attempt has committed. Nobody may work on what is left.
        """
        assert work.scope_id is not None
        assert work.members is not None
        key = self.locate(work.run_id)[f"members:{work.scope_id}:{work.step}"]
        gathered: list[Envelope] = []
        for start in range(0, work.members, PAGE):
            stop = min(start + PAGE, work.members) - 1
            page = self.read("read a fan-in", partial(self.client.lrange, key, start, stop))
            gathered.extend(Envelope.from_bytes(raw) for raw in page)
        if len(gathered) != work.members:
            raise RunClosed(
                f"Step {work.step!r} of run {work.run_id!r} (attempt {work.attempt}) is no longer wanted: of the "
                f"{work.members} events it was to be given {len(gathered)} are left."
            )
        return gathered

    def surroundings(self, run_id: str) -> Surroundings:
        """Waiters and inbox of a run, with the version a commit checks."""
        keys = self.locate(run_id)

        def read() -> Any:
            pipe = self.client.pipeline(transaction=True)
            pipe.hget(keys["run"], "wv").hgetall(keys["waiters"]).lrange(keys["inbox"], 0, -1)
            return pipe.execute()

        version, waiters, inbox = self.read("look at waiters", read)
        kept = [unpack_raw(raw) for raw in inbox]
        return Surroundings(
            int(version or 0),
            tuple(Waiter.from_bytes(name.decode(), data) for name, data in waiters.items()),
            tuple(InboxEvent(raw[b"id"].decode(), Envelope.from_bytes(raw[b"d"])) for raw in kept),
        )

    def run(self, run_id: str) -> RunRecord:
        """One run as it stands.

        Raises:
            RunNotFound: No such run, or its retention is over.
        """
        keys = self.locate(run_id)
        raw = self.read("read a run", lambda: self.client.hgetall(keys["run"]))
        if b"created_at" not in raw:  # nothing there, or not begun: a snapshot that is being restored
            raise RunNotFound(not_found(run_id))
        return run_record(run_id, raw)

    def runs(self, *, status: str | None = None, limit: int = 100) -> list[RunRecord]:
        """The newest runs, of one status or of any, newest first."""
        wanted = [status] if status else ["running", "completed", "failed", "cancelled", "timed_out"]

        def ids() -> Any:
            pipe = self.client.pipeline(transaction=False)
            for shard in range(self.settings.shards):
                for each in wanted:
                    pipe.zrange(self.keys.in_shard(shard, f"runs:{each}"), 0, limit - 1, desc=True, withscores=True)
            return pipe.execute()

        newest = sorted((pair for page in self.read("list runs", ids) for pair in page), key=lambda p: -p[1])[:limit]

        def records() -> Any:
            pipe = self.client.pipeline(transaction=False)
            for run_id, _ in newest:
                pipe.hgetall(self.locate(run_id.decode())["run"])
            return pipe.execute()

        found = self.read("read runs", records) if newest else []
        return [run_record(i.decode(), raw) for (i, _), raw in zip(newest, found, strict=True) if b"status" in raw]

    def plan(self, run_id: str, digest: str) -> Plan:
        """The plan a run started with, remembered per process by its digest."""
        known = self._plans.get(digest)
        if known is None:
            key = self.locate(run_id)[f"plan:{digest}"]
            data = self.read("read a plan", lambda: self.client.get(key))
            if data is None:
                raise RunNotFound(f"The plan {digest} of run {run_id!r} is not in Redis. Was the database replaced?")
            known = self._plans[digest] = Plan.from_json(data)
        return known

    def known_plan(self, digest: str) -> Plan | None:
        """The plan, if this process has read it before."""
        return self._plans.get(digest)

    def plan_of(self, run_id: str) -> Plan:
        """The plan of a run."""
        keys = self.locate(run_id)
        digest = self.read("read a run", lambda: self.client.hget(keys["run"], "plan"))
        if digest is None:
            raise RunNotFound(not_found(run_id))
        return self.plan(run_id, digest.decode())

    def active_steps(self, run_id: str) -> list[str]:
        """Names of the steps that hold a slot."""
        keys = self.locate(run_id)
        fields = self.read("read slots", lambda: self.client.hkeys(keys["slots"]))
        return sorted({name.decode().partition("/")[0] for name in fields if b"/" in name})

    def journal(self, run_id: str) -> list[tuple[int, str, Any]]:
        """The run's journal: (Redis time in ms, kind, data), oldest first."""
        keys = self.locate(run_id)
        entries = self.read("read a journal", lambda: self.client.xrange(keys["journal"]))
        return [
            (int(entry_id.split(b"-")[0]), fields[b"k"].decode(), unpack(fields[b"d"])) for entry_id, fields in entries
        ]
