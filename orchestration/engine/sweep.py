"""The sweep: periodic rescue, run by every worker.

It handles expired leases, due timers, unclaimed dispatches, and admissions that were neither taken nor released. No
single process is "the orchestrator" that could be killed: any worker may sweep. Taking turns (`due.py`) only saves
work: two concurrent sweeps do no harm, since each action is one idempotent script.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ..model.envelope import TIMED_OUT, ending
from ..model.errors import RunNotFound
from ..sessions.acts import forget_expired
from ..store.asks import Command
from ..store.replies import Applied, Dispatch, pairs
from .concurrency import Admission
from .due import BATCH, LOOKS, Look, look, looked_at_together
from .protocol import Engine
from .trimming import Trimming

logger = logging.getLogger("umbel.sweep")

#: How many entries are settled at a time: their scripts are sent together.
AT_ONCE = 64

#: How many entries of one kind a pass handles. Thousands of timers that are due at once must delay neither the other
#: kinds nor what becomes due meanwhile, and the next look must come before another process concludes that none sweeps.
MOST = 4 * AT_ONCE

#: How many passes are left to another process that was found to sweep.
LEFT_TO_OTHERS = 2

#: Pages of unclaimed dispatches, and dispatches per page, examined per shard and pass for those that count as lost.
PAGES, PAGE = 4, 500


class Sweep:
    """Sweeps one deployment, one pass at a time."""

    def __init__(self, engine: Engine, backlog: Callable[[str], Awaitable[int | None]]) -> None:
        """Args:
        engine: The deployment's.
        backlog: Messages waiting in a broker queue; None if the broker does not report it.
        """
        self.engine = engine
        self.store, self.leases, self.quota = engine.store, engine.leases, engine.quota
        self.backlog = backlog
        self._trimming = Trimming(self.store)
        #: Whether more is due than one pass handles: the next one should follow at once.
        self.is_behind = False
        self._leaves_to_others = 0
        self._turns: Mapping[int, int] = {}
        self._passed_over: dict[tuple[str, int], int] = {}  # kind, shard -> how many entries to skip
        self._passed_before = self._passed_over
        self._looked: dict[int, int] = {}  # shard -> where in its unclaimed index the last pass stopped

    async def sweep(self, *, everything: bool = False) -> int:
        """One pass: look, and handle what is due unless another process has done so recently.

        Args:
            everything: Even if another process has (for tests).

        Returns:
            How many entries were handled.
        """
        found = await self.look(everything=everything)
        return 0 if found is None else await self.settle(found)

    async def look(self, *, everything: bool = False) -> Look | None:
        """Find what is due.

        After a pass that could not handle everything, the same process has the next turn, too. The others leave it the
        turn, because they would only handle the same entries.

        Returns:
            What was found. None in a pass that is left to another process, which has recently had its turn. If nobody
            holds a lease and nothing is parked, nothing is left that only this process can do.
        """
        if self._leaves_to_others and not (everything or self.is_behind):
            self._leaves_to_others -= 1
            asked: list[Command] = [
                (
                    "EXISTS",
                    *(self.store.keys.in_shard(shard, name) for name in ("leases", "parked") for shard in shards),
                )
                for shards in looked_at_together(self.store)
            ]
            if not any(await self.store.reached("look for leases and parked work", *asked)):
                return None
        turns = self._turns if self.is_behind else {}
        everything = everything or (self.is_behind and not turns)
        found = await look(self.store, self._passed_over, everything=everything, turns=turns)
        self._turns = found.turns
        self._leaves_to_others = 0 if found.turns else LEFT_TO_OTHERS
        return found

    async def settle(self, found: Look) -> int:
        """Handle what a look has found; returns how many entries were handled."""
        self._passed_before, self._passed_over, self.is_behind = self._passed_over, {}, False
        now, due = found.now, found.due
        done = await self._all("leases", due, lambda shard, owner: self.lose_owner(owner, shard=shard))
        if "unclaimed" in due:
            horizons = await self._horizons(now)
            for shard in due["unclaimed"]:
                done += await self._redispatch(shard, horizons)
        done += await self._all("timers", due, lambda _, timer: self._timer(timer, now))
        done += await self._all("retire", due, lambda _, run_id: self.leases.retire(run_id))
        done += await self._all("releasing", due, lambda _, text: self.quota.release(Admission.of_releasing(text)))
        done += await self._all("awaiting_admission", due, lambda _, run_id: self.quota.look_at(run_id, now), LOOKS)
        done += await self._all("outbox", due, lambda _, member: self.engine.outbox.settle(member))
        done += await self._all("lines", due, lambda _, state_id: self.engine.turns.look_at(state_id, now), LOOKS)
        for shard, workflows in due.get("limits", {}).items():
            for workflow in workflows:
                done += await self._admitted(shard, workflow, now)
        if found.trims:
            await self._trim(now)
        return done

    async def _all(
        self,
        kind: str,
        due: Mapping[str, Mapping[int, Sequence[str]]],
        act: Callable[[int, str], Awaitable[Any]],
        most: int = BATCH,
    ) -> int:
        """Act on the due entries of one kind, many at a time, alternating between shards: none waits for another.

        The work that became ready, where `act` returns it, is dispatched together. An entry that cannot be settled is
        reported and stays where it is. The next pass skips it, and after the end of the index passes start from the
        beginning again: such an entry cannot hide those behind it.
        """
        found = due.get(kind, {})
        left: Counter[int] = Counter()

        async def settle(shard: int, member: str) -> Any:
            try:
                return await act(shard, member)
            except RunNotFound:
                left[shard] += 1
                logger.info("the sweep found %r of a run that was deleted", member, extra={"action": "sweep_orphan"})
            except Exception:
                left[shard] += 1
                logger.exception(
                    "the sweep could not process %r; trying again", member, extra={"action": "sweep_error"}
                )

        members = ([(shard, member) for member in members] for shard, members in found.items())
        waiting = [each for one_of_each in zip_longest(*members) for each in one_of_each if each is not None]
        is_cut = most == BATCH and len(waiting) > MOST
        if is_cut:
            del waiting[MOST:]
        for start in range(0, len(waiting), AT_ONCE):
            changes = await asyncio.gather(*(settle(*each) for each in waiting[start : start + AT_ONCE]))
            await self._dispatch([change for change in changes if isinstance(change, Applied)])
        for shard in found:
            if is_cut or len(found[shard]) >= most:
                self._passed_over[kind, shard] = self._passed_before.get((kind, shard), 0) + left[shard]
                self.is_behind = self.is_behind or most == BATCH
        return len(waiting) - left.total()

    async def _dispatch(self, changes: Sequence[Applied]) -> None:
        """Send the messages for what became ready in many runs, together for all runs of one plan."""
        by_plan: defaultdict[str, list[Dispatch]] = defaultdict(list)
        for change in changes:
            if change.plan is not None:
                by_plan[change.plan] += change.dispatches
        for digest, dispatches in by_plan.items():
            if not dispatches:
                continue
            try:
                plan = await self.store.plan(dispatches[0].run_id, digest)
                await self.engine.dispatcher.dispatch(plan, dispatches)
            except Exception:
                about = {"action": "sweep_error"}
                logger.exception("%d dispatches are left to a later pass", len(dispatches), extra=about)

    async def _admitted(self, shard: int, workflow: str, now: int) -> int:
        """Look at the runs of a limited workflow that were admitted a while ago."""
        kind = f"admitted:{workflow}"
        key, passed = self.store.keys.in_shard(shard, kind), self._passed_before.get((kind, shard), 0)
        # Looks are never postponed further than this; a later one dates from before Redis's clock was set back.
        latest = now + round(self.store.settings.redispatch_max_seconds * 1000)
        found, beyond = await self.store.batch(
            "look at admitted runs",
            ("ZRANGE", key, 0, now, "BYSCORE", "LIMIT", passed, LOOKS),
            ("ZRANGE", key, f"({latest}", "+inf", "BYSCORE", "LIMIT", 0, LOOKS),
        )
        due = {kind: {shard: [member.decode() for member in (*found, *beyond)]}}
        return await self._all(
            kind, due, lambda _, text: self.quota.look_at_admitted(Admission.of(workflow, text), now), LOOKS
        )

    # -- timers and leases ---------------------------------------------------------------------------------------------

    async def _timer(self, member: str, now: int) -> Applied | None:
        kind, _, rest = member.partition("|")
        if kind == "timeout":
            await self._time_out(rest, now)
            return None
        run_id, work_id, *waiter = rest.split("|", 2)
        applied = await self.leases.wake(run_id, member, kind, work_id, waiter[0] if waiter else "")
        if applied is not None and kind == "deadline":
            for dispatch in applied.dispatches:
                logger.warning(
                    "step %s of run %s ignored its time limit; it counts as failed, though it may still "
                    "occupy its worker",
                    dispatch.step,
                    run_id,
                    extra={"action": "step_hung", "run_id": run_id, "step": dispatch.step},
                )
        return applied

    async def _time_out(self, run_id: str, now: int) -> None:
        try:
            record = await self.store.run(run_id)
            timeout = record.options.get("timeout")
            if timeout is None:  # a rewind has set the limit: only the run's age is known
                timeout = (now - record.created_at) / 1000
            active = await self.store.active_steps(run_id)
        except RunNotFound:
            timeout, active = 0.0, []
        event = ending(TIMED_OUT, timeout=timeout, active_steps=active)
        await self.engine.finish(run_id, "timed_out", event, if_due=True)

    async def lose_owner(self, owner: str, *, shard: int, known_dead: bool = False) -> int:
        """Hand back everything a lost owner held in a shard; returns how many runs were touched."""
        touched = 0
        while held := await self.leases.fence(owner, shard, known_dead=known_dead):
            logger.warning(
                "worker %s died; rescheduling %d of its steps",
                owner.partition("|")[0],
                len(held),
                extra={"action": "owner_lost", "owner": owner},
            )
            for run_id, applied in await self.leases.hand_back(owner, held, charge=True):
                await self.engine.dispatch(run_id, applied.dispatches)
                touched += 1
        return touched

    # -- unclaimed dispatches ------------------------------------------------------------------------------------------

    async def _horizons(self, now: int) -> dict[str, int]:
        """Per queue and priority, the instant before which a due dispatch counts as lost.

        If a broker queue is empty, everything unclaimed that is due was lost. In a queue that is merely long, a
        dispatch was lost only if the FIFO has passed it over: it was due before the newest claimed dispatch of the same
        priority was sent. A dispatch of higher priority overtakes others without any loss. If the broker does not
        report the length of a queue, a dispatch also counts as lost when it has been due for `redispatch_max_seconds`.
        A claim in the future is ignored: Redis's clock has been set back since.
        """
        keys, shards = self.store.keys, range(self.store.settings.shards)
        asked: list[Command] = [("HKEYS", keys.in_shard(shard, "unclaimed_counts")) for shard in shards]
        asked += [("HGETALL", keys.in_shard(shard, "watermark")) for shard in shards]
        answers = await self.store.reached("look at the queues", *asked)
        lines = {name.decode() for names in answers[: len(shards)] for name in names or ()}
        watermark: dict[str, int] = {}
        for marks in map(pairs, filter(None, answers[len(shards) :])):
            for name, instant in marks.items():
                if int(instant) <= now:
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
        due = {"unclaimed": {shard: list(lost)}}
        return await self._all("unclaimed", due, lambda _, run_id: self._redispatch_run(run_id, lost[run_id]))

    async def _lost(self, shard: int, horizons: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
        """The dispatches that count as lost, by run.

        Dispatches that wait in a queue that is merely long must not hide what another queue has lost: the index is read
        page by page, and the next pass continues where this one stopped.
        """
        key = self.store.keys.in_shard(shard, "unclaimed")
        horizon = max(horizons.values(), default=0)
        lost: dict[str, list[tuple[str, str]]] = defaultdict(list)
        taken, looked = 0, self._looked.pop(shard, 0)
        for _ in range(PAGES):
            page = await self.store.command(
                "look at unclaimed work",
                *("ZRANGE", key, 0, horizon, "BYSCORE", "LIMIT", looked, PAGE, "WITHSCORES"),
            )
            for raw, score in pairs(page).items():
                run_id, work_id, line = raw.decode().split("|", 2)
                if float(score) <= horizons.get(line, 0):
                    lost[run_id].append((work_id, line))
                    taken += 1
            looked += len(page) // 2
            if len(page) // 2 < PAGE:
                return lost
            if taken >= PAGE:
                break
        self._looked[shard] = looked - taken  # redispatched entries move back
        return lost

    async def _redispatch_run(self, run_id: str, items: Sequence[tuple[str, str]]) -> Applied:
        applied = await self.leases.redispatch(run_id, items)
        if applied.dispatches:
            logger.info(
                "redispatched %d unclaimed steps of run %s",
                len(applied.dispatches),
                run_id,
                extra={"action": "redispatch", "run_id": run_id},
            )
        return applied

    async def _trim(self, now: int) -> None:
        await self._trimming.trim(now)
        settings = self.store.settings
        idle = now - round((settings.session_retention_seconds or settings.retention_seconds) * 1000)
        for shard in range(settings.shards):
            await forget_expired(self.store, shard, idle)
