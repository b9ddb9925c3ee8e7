"""The sweep: periodic rescue, run by every worker. Expired leases, due timers, unclaimed dispatches, admissions that
were neither taken nor released.

Killing "the orchestrator" kills nothing because there is none: any worker sweeps any shard. A `SET NX PX` per shard
only saves work; two sweeps at once do no harm, since each action is one idempotent script.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from ..model.envelope import TIMED_OUT, ending
from ..model.errors import RunNotFound
from ..store.asks import Command
from ..store.failpoints import failpoint
from ..store.replies import pairs
from .concurrency import Admission
from .protocol import Engine

logger = logging.getLogger("umbel.sweep")

#: At most this much is taken up per shard, kind and pass; the rest is due in the next one.
BATCH = 500

#: So many batches of unclaimed dispatches are examined per shard and pass for those that count as lost.
PAGES = 4

#: At most so many runs per shard and pass are looked at because they were admitted, or have waited, for long. Most of
#: them are in order, and what is urgent must not wait for that.
LOOKS = 50


class Sweep:
    """One deployment's rescue, a pass at a time."""

    def __init__(self, engine: Engine, backlog: Callable[[str], Awaitable[int | None]]) -> None:
        """Args:
        engine: Of the deployment.
        backlog: Messages waiting in a broker queue; None when the broker cannot say.
        """
        self.engine = engine
        self.store, self.leases, self.quota = engine.store, engine.leases, engine.quota
        self.backlog = backlog
        self._looked: dict[int, int] = {}  # shard -> how much of its unclaimed index the last pass has looked through

    async def sweep(self, *, everything: bool = False) -> int:
        """One pass over the shards that no other process has swept within the period.

        Args:
            everything: Ignore what others have swept (tests, and a worker that just started).

        Returns:
            How many things were taken care of.
        """
        keys, shards = self.store.keys, range(self.store.settings.shards)
        won, now = await self._take_shards()
        mine = [shard for shard in shards if everything or won[shard]]
        if not mine:
            return 0
        looks: list[Command] = []
        for shard in shards:
            looks.append(("HGETALL", keys.in_shard(shard, "unclaimed_counts")))
            looks.append(("HGETALL", keys.in_shard(shard, "watermark")))
        for shard in mine:
            looks += self._looks(shard, now)
        answers = await self.store.batch("look for what is due", *looks)
        waiting = [pairs(answer) for answer in answers[: 2 * len(shards)]]
        per_shard = (len(answers) - len(waiting)) // len(mine)
        done = 0
        horizons: dict[str, int] | None = None
        for position, shard in enumerate(mine):
            found = answers[len(waiting) + per_shard * position :][:per_shard]
            timers, owners, unclaimed, retired, releasing, waits, limited = found
            done += await self._each(timers, self._timer)
            done += await self._each(owners, partial(self.lose_owner, shard=shard))
            if unclaimed:
                horizons = await self._horizons(waiting, now) if horizons is None else horizons
                done += await self._redispatch(shard, horizons)
            done += await self._each(retired, self.leases.retire)
            done += await self._each(releasing, lambda text: self.quota.release(Admission.of_releasing(text)))
            done += await self._each(waits, lambda run_id: self.quota.look_at(run_id, now))
            for workflow in limited:
                done += await self._admitted(shard, workflow.decode(), now)
        if mine[0] == 0:
            await self._trim(now)
        return done

    async def _take_shards(self) -> tuple[list[Any], int]:
        """Which shards this pass may sweep, and the time in Redis ms."""
        keys, settings = self.store.keys, self.store.settings
        period = max(1, round(settings.sweep_seconds * 900))
        takes: list[Command] = [
            ("SET", keys.in_shard(shard, "beat:sweep"), 1, "NX", "PX", period) for shard in range(settings.shards)
        ]
        failpoint("sweep_turn", "before")
        *won, (seconds, micros) = await self.store.batch("take shards to sweep", *takes, ("TIME",))
        failpoint("sweep_turn", "after")
        return won, int(seconds) * 1000 + int(micros) // 1000

    def _looks(self, shard: int, now: int) -> list[Command]:
        def key(name: str) -> str:
            return self.store.keys.in_shard(shard, name)

        return [
            ("ZRANGE", key("timers"), 0, now, "BYSCORE", "LIMIT", 0, BATCH),
            ("ZRANGE", key("leases"), 0, now, "BYSCORE", "LIMIT", 0, BATCH),
            ("ZRANGE", key("unclaimed"), 0, now, "BYSCORE", "LIMIT", 0, 1),
            ("ZRANGE", key("retire"), 0, BATCH - 1),
            ("ZRANGE", key("releasing"), 0, BATCH - 1),
            ("ZRANGE", key("awaiting_admission"), 0, now, "BYSCORE", "LIMIT", 0, LOOKS),
            ("HKEYS", key("limits")),
        ]

    async def _each(self, raw: Iterable[bytes], act: Callable[[str], Awaitable[Any]]) -> int:
        """Act on each; one that fails is reported and left for the next pass, so it cannot stop the others."""
        done = 0
        for member in raw:
            try:
                await act(member.decode())
                done += 1
            except RunNotFound:
                logger.info("sweep found %r of a run that was deleted", member, extra={"action": "sweep_orphan"})
            except Exception:
                logger.exception("sweep could not settle %r; trying again", member, extra={"action": "sweep_error"})
        return done

    async def _admitted(self, shard: int, workflow: str, now: int) -> int:
        """Look at the runs of a limited workflow that were admitted a while ago."""
        key = self.store.keys.in_shard(shard, f"admitted:{workflow}")
        found = await self.store.command("look at admitted runs", "ZRANGE", key, 0, now, "BYSCORE", "LIMIT", 0, LOOKS)
        return await self._each(found, lambda text: self.quota.look_at_admitted(Admission.of(workflow, text), now))

    # -- timers and leases ---------------------------------------------------------------------------------------------

    async def _timer(self, member: str) -> None:
        kind, _, rest = member.partition("|")
        if kind == "timeout":
            await self._time_out(rest)
            return
        run_id, work_id, *waiter = rest.split("|", 2)
        applied = await self.leases.wake(run_id, member, kind, work_id, waiter[0] if waiter else "")
        if applied is None:
            return
        if kind == "deadline":
            for dispatch in applied.dispatches:
                logger.warning(
                    "step %s of run %s did not react to its time limit; it counts as failed, though it may still "
                    "occupy its worker",
                    dispatch.step,
                    run_id,
                    extra={"action": "step_hung", "run_id": run_id, "step": dispatch.step},
                )
        await self.engine.dispatch(run_id, applied.dispatches)

    async def _time_out(self, run_id: str) -> None:
        try:
            timeout = (await self.store.run(run_id)).options.get("timeout")
            active = await self.store.active_steps(run_id)
        except RunNotFound:
            timeout, active = None, []
        event = ending(TIMED_OUT, timeout=timeout, active_steps=active)
        await self.engine.finish(run_id, "timed_out", event, if_due=True)

    async def lose_owner(self, owner: str, *, shard: int, known_dead: bool = False) -> int:
        """Hand back everything a lost owner held in a shard; returns how many runs were touched."""
        touched = 0
        while held := await self.leases.fence(owner, shard, known_dead=known_dead):
            logger.warning(
                "%s died; rescheduling %d steps", owner, len(held), extra={"action": "owner_lost", "owner": owner}
            )
            for run_id, applied in await self.leases.hand_back(owner, held, charge=True):
                await self.engine.dispatch(run_id, applied.dispatches)
                touched += 1
        return touched

    # -- unclaimed dispatches ------------------------------------------------------------------------------------------

    async def _horizons(self, waiting: Sequence[dict[bytes, bytes]], now: int) -> dict[str, int]:
        """Per queue and priority: a dispatch due before this instant was lost.

        An empty broker queue has lost everything unclaimed that is due. In a queue that is merely long, only what its
        FIFO has passed over was lost: dispatched (and its patience over) before the newest claimed dispatch of the same
        priority. A more urgent one overtakes without anything being lost. When the broker does not say how long a queue
        is, nothing counts as lost before `redispatch_max_seconds`.
        """
        lines = {name.decode() for counts in waiting[::2] for name in counts}
        watermark: dict[str, int] = {}
        for marks in waiting[1::2]:
            for name, instant in marks.items():
                watermark[name.decode()] = max(watermark.get(name.decode(), 0), int(instant))
        lengths = {queue: await self.backlog(queue) for queue in {line.rpartition("/")[0] for line in lines}}
        patient = now - round(self.store.settings.redispatch_max_seconds * 1000)
        horizons: dict[str, int] = {}
        for line in lines:
            length = lengths[line.rpartition("/")[0]]
            passed_over = watermark.get(line, 0)
            horizons[line] = now if length == 0 else max(patient, passed_over) if length is None else passed_over
        return horizons

    async def _redispatch(self, shard: int, horizons: dict[str, int]) -> int:
        lost = await self._lost(shard, horizons)
        return await self._each(
            [run_id.encode() for run_id in lost], lambda run_id: self._redispatch_run(run_id, lost[run_id])
        )

    async def _lost(self, shard: int, horizons: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
        """What counts as lost, by run.

        What waits in a queue that is merely long must not hide what another queue has lost: the index is looked through
        page by page, and in the next pass from where this one left off.
        """
        key = self.store.keys.in_shard(shard, "unclaimed")
        horizon = max(horizons.values(), default=0)
        lost: dict[str, list[tuple[str, str]]] = defaultdict(list)
        taken, looked = 0, self._looked.pop(shard, 0)
        for _ in range(PAGES):
            page = await self.store.command(
                "look at unclaimed work",
                *("ZRANGE", key, 0, horizon, "BYSCORE", "LIMIT", looked, BATCH, "WITHSCORES"),
            )
            for raw, score in pairs(page).items():
                run_id, work_id, line = raw.decode().split("|", 2)
                if float(score) <= horizons.get(line, 0):
                    lost[run_id].append((work_id, line))
                    taken += 1
            looked += len(page) // 2
            if len(page) // 2 < BATCH:
                return lost
            if taken >= BATCH:
                break
        self._looked[shard] = looked - taken  # what is dispatched again moves on
        return lost

    async def _redispatch_run(self, run_id: str, items: Sequence[tuple[str, str]]) -> None:
        applied = await self.leases.redispatch(run_id, items)
        if applied.dispatches:
            logger.info(
                "redispatched %d unclaimed steps of run %s",
                len(applied.dispatches),
                run_id,
                extra={"action": "redispatch", "run_id": run_id},
            )
        await self.engine.dispatch(run_id, applied.dispatches)

    async def _trim(self, now: int) -> None:
        """Remove ended runs from the indexes once their keys have expired."""
        over = now - round(self.store.settings.retention_seconds * 1000)
        trims: list[Command] = [
            ("ZREMRANGEBYSCORE", self.store.keys.in_shard(shard, f"runs:{status}"), "-inf", over)
            for shard in range(self.store.settings.shards)
            for status in ("completed", "failed", "cancelled", "timed_out")
        ]
        failpoint("trim", "before")
        await self.store.batch("trim the indexes", *trims)
        failpoint("trim", "after")
