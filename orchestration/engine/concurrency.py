"""Concurrency limit: at most N runs of a workflow execute at a time, across the deployment.

    start ── waits ──> admit ── admitted ──> begin ── … ──> its end: releasing ──> leave ──> begin of the next run
    (run's shard)      (workflow's shard)    (run's shard)  (run's shard)          (workflow's shard)

A run lives in the shard of its id, the limit of a workflow in the shard of its name, so no script sees both. Each arrow
is a separate script, which any process may repeat, and what comes next is recorded before it is done:

    dies after   on record                                        the sweep
    start        `awaiting_admission`: a run that waits           asks for its admission (again)
    admit        `admitted`: a run that is admitted, not begun    begins it
    its end      `releasing`: an admission to be released         releases it
    leave        `admitted` again, of the runs admitted by it     begins them

An *admission* is a run id and the instant of its start: a retried run gets a new one for each life. Only an admitted
run can begin, only the end of that life releases it, and it is released before the next one is admitted: the limit is
never exceeded. Runs are admitted in the order of their starts. An admission whose run has ended meanwhile may still be
granted, to a caller that was slow; its `begin` is refused, and it is released at once.

The newest client's limit applies. Runs that were started without a limit are neither counted nor held up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass

from ..model.commands import Fill
from ..model.errors import RunNotFound, UmbelError
from ..store.replies import pairs
from ..store.scripts import unpack
from ..store.verbs import Store
from .dispatcher import Dispatcher

logger = logging.getLogger("umbel.concurrency")


@dataclass(frozen=True, slots=True)
class Admission:
    """The request of one life of a run to be admitted.

    Attributes:
        workflow: The limited workflow.
        run_id: The run.
        since: When it was started or retried, in µs of Redis time.
    """

    workflow: str
    run_id: str
    since: int

    @property
    def member(self) -> str:
        """Its member in the sets of its workflow's admissions."""
        return f"{self.run_id}|{self.since}"

    @staticmethod
    def of(workflow: str, member: str) -> Admission:
        """The inverse of `member`."""
        run_id, _, since = member.partition("|")
        return Admission(workflow, run_id, int(since))

    @property
    def releasing(self) -> str:
        """Its member in the set of admissions to be released."""
        return f"{self.member}|{self.workflow}"

    @staticmethod
    def of_releasing(text: str) -> Admission:
        """The inverse of `releasing`."""
        run_id, since, workflow = text.split("|", 2)
        return Admission(workflow, run_id, int(since))


@dataclass(frozen=True, slots=True)
class LimitUse:
    """The limit of one workflow, while runs of it execute or wait.

    Attributes:
        workflow: The limited workflow.
        limit: How many of its runs may execute at a time, as the newest client stated.
        in_use: How many are admitted.
        waiting: How many wait for their admission.
    """

    workflow: str
    limit: int
    in_use: int
    waiting: int


async def concurrency_limits(store: Store) -> list[LimitUse]:
    """The limits that are in use now, by name of the workflow. Reads only, and not atomically."""
    shards = range(store.settings.shards)
    found = await store.batch("look at limits", *(("HGETALL", store.keys.in_shard(each, "limits")) for each in shards))
    limits = [
        (shard, name.decode(), int(stated.split()[0]))
        for shard, of_shard in zip(shards, found, strict=True)
        for name, stated in pairs(of_shard).items()
    ]
    counts = await store.batch(
        "look at limits",
        *(
            ("ZCARD", store.keys.in_shard(shard, f"{what}:{name}"))
            for shard, name, _ in limits
            for what in ("admitted", "waiting")
        ),
    )
    used = zip(limits, counts[::2], counts[1::2], strict=True)
    return sorted((LimitUse(name, limit, *of) for (_, name, limit), *of in used), key=lambda each: each.workflow)


class RunQuota:
    """Admits runs of limited workflows. *Promise:* every method may be repeated, run concurrently and interrupted."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        """Args:
        store: The runs.
        dispatcher: Sends the messages for runs that begin.
        """
        self.store, self.dispatcher = store, dispatcher

    # -- at once, after a start or an end ------------------------------------------------------------------------------

    async def take(self, run_id: str) -> None:
        """Let a run that was started or retried begin, if the limit allows. Never raises."""
        await self._without_harm(self.ask(run_id))

    async def pass_on(self, releasing: str | None) -> None:
        """Release the admission of an ended run and let the next one begin. Never raises.

        Args:
            releasing: The ended run's admission, from the reply to its end; None if it had none.
        """
        if releasing is not None:
            await self._without_harm(self.release(Admission.of_releasing(releasing)))

    async def _without_harm(self, act: Awaitable[object]) -> None:
        """Log errors instead of raising them: the start or end before it is already in Redis and must not fail."""
        try:
            await act
        except UmbelError as error:
            logger.warning("an admission is left to the sweep: %s", error, extra={"action": "admission_postponed"})
        except Exception:
            logger.exception("an admission is left to the sweep", extra={"action": "admission_postponed"})

    # -- step by step, for the sweep -----------------------------------------------------------------------------------

    async def ask(self, run_id: str) -> Admission | None:
        """Ask for the admission of a run that has not begun, and begin the runs that this admits.

        Returns:
            The run's admission; None when the run does not exist or does not wait.
        """
        keys = self.store.locate(run_id)
        names = ("status", "workflow", "ticket", "limit", "created_at", "unbegun")
        found = await self.store.command("read an admission", "HMGET", keys["run"], *names)
        status, workflow, member, limit, created_at, waits = found
        if status is None:
            await self.store.command("forget a run", "ZREM", keys["awaiting_admission"], run_id)
        if waits is None:
            return None
        admission = Admission.of(workflow.decode(), member.decode())
        await self._begin_all(await self.admit(admission, int(limit), said_at=int(created_at)))
        return admission

    async def look_at(self, run_id: str, now: int) -> None:
        """Ask again for a run that has waited for long, less often the longer it waits.

        Args:
            run_id: The run.
            now: Redis time in ms.
        """
        admission = await self.ask(run_id)
        if admission is not None:
            settings = self.store.settings
            age = now - admission.since // 1000
            pause = min(max(age, settings.redispatch_seconds * 1000), settings.redispatch_max_seconds * 1000)
            await self._look_later(self.store.locate(run_id)["awaiting_admission"], run_id, now + round(pause))

    async def look_at_admitted(self, admission: Admission, now: int) -> None:
        """Check a run that was admitted a while ago: it may not have begun, or have ended without a release.

        Args:
            admission: The run's.
            now: Redis time in ms.
        """
        key = self.store.locate(admission.run_id)["run"]
        status, member, waits = await self.store.command(
            "read an admission", "HMGET", key, "status", "ticket", "unbegun"
        )
        if status != b"running" or member != admission.member.encode():
            await self.release(admission)
        elif waits is not None:
            await self._begin_all([admission])
        else:
            later = now + round(self.store.settings.redispatch_max_seconds * 1000)
            shard = self.store.keys.shard_of(admission.workflow)
            key = self.store.keys.in_shard(shard, f"admitted:{admission.workflow}")
            await self._look_later(key, admission.member, later)

    async def _look_later(self, key: str, member: str, at: int) -> None:
        """Postpone the next check; one that is already due later, or no longer wanted, stays as it is."""
        await self.store.command("postpone a look", "ZADD", key, "XX", "GT", at, member, name="look_later")

    async def release(self, admission: Admission) -> None:
        """Release an admission, or stop waiting for it, and begin the runs that this admits."""
        await self._begin_all(await self.leave(admission))
        key = self.store.locate(admission.run_id)["releasing"]
        await self.store.command("release an admission", "ZREM", key, admission.releasing, name="give_back")

    async def _begin_all(self, admitted: list[Admission]) -> None:
        waiting = deque(admitted)
        while waiting:
            admission = waiting.popleft()
            if not await self.begin(admission):
                waiting.extend(await self.leave(admission))

    # -- one script each -----------------------------------------------------------------------------------------------

    async def admit(self, admission: Admission, limit: int, *, said_at: int) -> list[Admission]:
        """Admit a run, or let it wait in line.

        Args:
            admission: The run's.
            limit: How many runs of the workflow may execute at a time.
            said_at: When the client stated that limit; the newest statement counts.

        Returns:
            The runs to begin. The one that asks is among them even if it was admitted before.
        """
        return await self._change("admit", admission, since=admission.since, limit=limit, said_at=said_at)

    async def leave(self, admission: Admission) -> list[Admission]:
        """Give up the admission, or the place in line; returns the runs that this admits."""
        return await self._change("leave", admission)

    async def begin(self, admission: Admission) -> bool:
        """Begin an admitted run and dispatch its work; False if that life of the run is over."""
        run_id = admission.run_id
        try:
            plan = await self.store.plan_of(run_id)
        except RunNotFound:
            return False
        fills = [Fill(step).wire() for step in plan.steps]
        status, *rest = await self.store.verb("begin", run_id, ticket=admission.member, body=fills)
        if status != b"begun":
            return False
        await self.dispatcher.dispatch(plan, self.store.applied(run_id, rest[0]).dispatches)
        return True

    async def _change(self, verb: str, admission: Admission, **args: int) -> list[Admission]:
        shard = self.store.keys.shard_of(admission.workflow)
        names = {name: f"{name}:{admission.workflow}" for name in ("admitted", "waiting")}
        look = round(self.store.settings.redispatch_seconds * 1000)
        reply = await self.store.shard_verb(
            verb, shard, names, workflow=admission.workflow, ticket=admission.member, look=look, **args
        )
        return [Admission.of(admission.workflow, member) for member in unpack(reply[1])]
