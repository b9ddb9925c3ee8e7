"""The sweep: periodic rescue, run by every worker. Expired leases, due timers, dispatches that nobody claimed, places
that nobody gave back or took.

Killing "the orchestrator" kills nothing because there is none: any worker sweeps any shard. A `SET NX PX` per shard
only spares work; two sweeps at once do no harm, since each action is one idempotent script.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from ..model.envelope import TIMED_OUT, ending
from ..model.errors import RunNotFound
from ..model.plan import Plan
from ..store.blocking import BlockingStore as Store
from ..store.failpoints import failpoint
from ..store.replies import Dispatch
from .concurrency import Admission, RunQuota
from .leases import Leases

logger = logging.getLogger("umbel.sweep")

#: At most this much is taken up per shard, kind and pass; the rest is due in the next one.
BATCH = 500

#: So many batches of unclaimed dispatches are looked through per shard and pass for those that count as lost.
PAGES = 4

#: At most so many runs per shard and pass are looked at because they have had or waited for a place for long. Nothing
#: is wrong with most of them, and what is urgent must not wait for that.
LOOKS = 50


class Dispatcher(Protocol):
    """Rings dispatches: sends the Celery messages. May lose or double any of them."""

    def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Send one message per dispatch."""


class Sweep:
    """One deployment's leases, a pass at a time."""

    def __init__(self, store: Store, dispatcher: Dispatcher, backlog: Callable[[str], int | None]) -> None:
        """Args:
        store: The runs.
        dispatcher: How to ring.
        backlog: Messages waiting in a broker queue; None when the broker cannot say.
        """
        self.store = store
        self.leases = Leases(store)
        self.quota = RunQuota(store, dispatcher.dispatch)
        self.dispatcher = dispatcher
        self.backlog = backlog
        self._looked: dict[int, int] = {}  # shard -> how much of its ring the last pass has looked through

    def sweep(self, *, everything: bool = False) -> int:
        """One pass over the shards that no other process has swept within the period.

        Args:
            everything: Ignore what others have swept (tests, and a worker that just started).

        Returns:
            How many things were put right.
        """
        client, keys, settings = self.store.client, self.store.keys, self.store.settings
        shards = range(settings.shards)
        period = max(1, round(settings.sweep_seconds * 900))
        pipe = client.pipeline(transaction=False)
        for shard in shards:
            pipe.set(keys.in_shard(shard, "beat:sweep"), 1, nx=True, px=period)
        pipe.time()
        failpoint("sweep_turn", "before")
        *won, (seconds, micros) = pipe.execute()
        failpoint("sweep_turn", "after")
        now = seconds * 1000 + micros // 1000
        mine = [shard for shard in shards if everything or won[shard]]
        if not mine:
            return 0
        pipe = client.pipeline(transaction=False)
        for shard in shards:
            pipe.hgetall(keys.in_shard(shard, "unclaimed_counts"))
            pipe.hgetall(keys.in_shard(shard, "watermark"))
        for shard in mine:
            pipe.zrange(keys.in_shard(shard, "timers"), 0, now, byscore=True, offset=0, num=BATCH)
            pipe.zrange(keys.in_shard(shard, "leases"), 0, now, byscore=True, offset=0, num=BATCH)
            pipe.zrange(keys.in_shard(shard, "unclaimed"), 0, now, byscore=True, offset=0, num=1, withscores=True)
            pipe.zrange(keys.in_shard(shard, "retire"), 0, BATCH - 1)
            pipe.zrange(keys.in_shard(shard, "releasing"), 0, BATCH - 1)
            pipe.zrange(keys.in_shard(shard, "awaiting_admission"), 0, now, byscore=True, offset=0, num=LOOKS)
            pipe.hkeys(keys.in_shard(shard, "limits"))
        answers = pipe.execute()
        waiting = answers[: 2 * settings.shards]
        done = 0
        horizons: dict[str, int] | None = None
        for position, shard in enumerate(mine):
            found = answers[2 * settings.shards + 7 * position :][:7]
            timers, owners, ring, retired, leaving, unbegun, limited = found
            done += self._each(timers, self._timer)
            done += self._each(owners, partial(self.lose_owner, shard=shard))
            if ring:
                horizons = self._horizons(waiting, now) if horizons is None else horizons
                done += self._ring(shard, horizons)
            done += self._each(retired, self.leases.retire)
            done += self._each(leaving, lambda text: self.quota.give_back(Admission.of_leaving(text)))
            done += self._each(unbegun, partial(self.quota.look_at, now=now))
            for workflow in limited:
                done += self._holders(shard, workflow.decode(), now)
        if mine and mine[0] == 0:
            self._trim(now)
        return done

    def _each(self, raw: Sequence[bytes], act: Callable[[str], Any]) -> int:
        """Act on each; one that fails is reported and left for the next pass, so it cannot stop the others."""
        done = 0
        for member in raw:
            try:
                act(member.decode())
                done += 1
            except RunNotFound:
                logger.info("sweep found %r of a run that is gone", member, extra={"action": "sweep_orphan"})
            except Exception:
                logger.exception("sweep could not settle %r; trying again", member, extra={"action": "sweep_error"})
        return done

    def _holders(self, shard: int, workflow: str, now: int) -> int:
        """Look at the runs that have had a place of a limited workflow for a while."""
        key = self.store.keys.in_shard(shard, f"places:{workflow}")
        found = self.store.client.zrange(key, 0, now, byscore=True, offset=0, num=LOOKS)
        return self._each(found, lambda member: self.quota.look_at_holder(Admission.of(workflow, member), now))

    def dispatch(self, run_id: str, dispatches: Sequence[Dispatch]) -> None:
        """Ring the dispatches that a verb asked for."""
        if dispatches:
            self.dispatcher.dispatch(self.store.plan_of(run_id), dispatches)

    def _timer(self, member: str) -> None:
        kind, _, rest = member.partition("|")
        if kind == "timeout":
            self._time_out(rest)
            return
        run_id, work_id, *waiter = rest.split("|", 2)
        applied = self.leases.wake(run_id, member, kind, work_id, waiter[0] if waiter else "")
        if applied is None:
            return
        if kind == "deadline":
            for dispatch in applied.dispatches:
                logger.warning(
                    "step %s of run %s did not react to its time limit; it is given up and counts as failed, though it "
                    "may still occupy its worker",
                    dispatch.step,
                    run_id,
                    extra={"action": "step_hung", "run_id": run_id, "step": dispatch.step},
                )
        self.dispatch(run_id, applied.dispatches)

    def _time_out(self, run_id: str) -> None:
        try:
            timeout = self.store.run(run_id).options.get("timeout")
            active = self.store.active_steps(run_id)
        except RunNotFound:
            timeout, active = None, []
        event = ending(TIMED_OUT, timeout=timeout, active_steps=active)
        if self.store.finish(run_id, "timed_out", event, if_due=True):
            self.quota.pass_on_of(run_id)

    def lose_owner(self, owner: str, *, shard: int, known_dead: bool = False) -> int:
        """Hand back everything a lost owner held in a shard; returns how many runs were touched."""
        touched = 0
        while held := self.leases.fence(owner, shard, known_dead=known_dead):
            logger.warning(
                "owner %s is lost with %d steps in hand",
                owner,
                len(held),
                extra={"action": "owner_lost", "owner": owner},
            )
            for run_id, applied in self.leases.hand_back(owner, held, charge=True):
                self.dispatch(run_id, applied.dispatches)
                touched += 1
        return touched

    def _horizons(self, waiting: Sequence[dict[bytes, bytes]], now: int) -> dict[str, int]:
        """Per queue and priority: a dispatch due before this instant was lost.

        An empty broker queue has lost everything unclaimed that is due. In a queue that is merely long, only what
        its FIFO has passed over was lost: dispatched (and its patience over) before the newest claimed dispatch of
        the same priority. A more urgent one overtakes without anything being lost. When the broker does not say how
        long a queue is, nothing counts as lost before `redispatch_max_seconds`.
        """
        lines = {name.decode() for counts in waiting[::2] for name in counts}
        watermark: dict[str, int] = {}
        for marks in waiting[1::2]:
            for name, instant in marks.items():
                watermark[name.decode()] = max(watermark.get(name.decode(), 0), int(instant))
        lengths = {queue: self.backlog(queue) for queue in {line.rpartition("/")[0] for line in lines}}
        patient = now - round(self.store.settings.redispatch_max_seconds * 1000)
        horizons: dict[str, int] = {}
        for line in lines:
            length = lengths[line.rpartition("/")[0]]
            passed_over = watermark.get(line, 0)
            horizons[line] = now if length == 0 else max(patient, passed_over) if length is None else passed_over
        return horizons

    def _ring(self, shard: int, horizons: dict[str, int]) -> int:
        by_run = self._unclaimed(shard, horizons)
        return self._each(
            [run_id.encode() for run_id in by_run], lambda run_id: self._redispatch_run(run_id, by_run[run_id])
        )

    def _unclaimed(self, shard: int, horizons: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
        """What counts as lost, by run.

        What waits in a queue that is merely long must not hide what another queue has lost: the ring is looked
        through page by page, and in the next pass from where this one left off.
        """
        key = self.store.keys.in_shard(shard, "unclaimed")
        horizon = max(horizons.values(), default=0)
        lost: dict[str, list[tuple[str, str]]] = defaultdict(list)
        taken, looked = 0, self._looked.pop(shard, 0)
        for _ in range(PAGES):
            page = self.store.client.zrange(key, 0, horizon, byscore=True, offset=looked, num=BATCH, withscores=True)
            for raw, score in page:
                run_id, work_id, line = raw.decode().split("|", 2)
                if score <= horizons.get(line, 0):
                    lost[run_id].append((work_id, line))
                    taken += 1
            looked += len(page)
            if len(page) < BATCH:
                return lost
            if taken >= BATCH:
                break
        self._looked[shard] = looked - taken  # what is rung for moves on
        return lost

    def _redispatch_run(self, run_id: str, items: Sequence[tuple[str, str]]) -> None:
        applied = self.leases.redispatch(run_id, items)
        if applied.dispatches:
            logger.info(
                "rang again for %d steps of run %s that nobody had claimed",
                len(applied.dispatches),
                run_id,
                extra={"action": "redispatch", "run_id": run_id},
            )
        self.dispatch(run_id, applied.dispatches)

    def _trim(self, now: int) -> None:
        """Forget ended runs in the indexes once their keys are gone."""
        over = now - round(self.store.settings.retention_seconds * 1000)
        pipe = self.store.client.pipeline(transaction=False)
        for shard in range(self.store.settings.shards):
            for status in ("completed", "failed", "cancelled", "timed_out"):
                pipe.zremrangebyscore(self.store.keys.in_shard(shard, f"runs:{status}"), "-inf", over)
        failpoint("trim", "before")
        pipe.execute()
        failpoint("trim", "after")
