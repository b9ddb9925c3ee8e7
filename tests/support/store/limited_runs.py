"""Runs of one workflow with a concurrency limit, driven by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_sweep
from support.store.driving import LIMITS, DrivenRun, dump, event, failed, plan_of, step, stop
from umbel.orchestration.engine.concurrency import Admission, RunQuota
from umbel.orchestration.model.decide import decide_start
from umbel.orchestration.model.envelope import CANCELLED, START, ending
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.store.replies import Applied, Dispatch

PLAN = plan_of(step("begin", START), step("work", "A", num_workers=1), step("asks", "Q"))


class Crowd:
    """Runs of one limited workflow, over a store; `sent` are the dispatches of admitted runs."""

    def __init__(self, store: Store, plan: Plan = PLAN) -> None:
        self.store, self.plan = store, plan
        self.sent: list[Dispatch] = []
        self.quota = store.over(RunQuota, self)
        self.runs: list[DrivenRun] = []

    async def dispatch(self, _: Plan, dispatches: Sequence[Dispatch]) -> None:
        self.sent.extend(dispatches)

    def dispatch_soon(self, _: Plan, dispatches: Sequence[Dispatch]) -> None:
        self.sent.extend(dispatches)

    def begun(self) -> list[str]:
        """Return the runs that were dispatched since the last call, in order."""
        found, self.sent = list(dict.fromkeys(dispatch.run_id for dispatch in self.sent)), []
        return found

    def start(
        self,
        run_id: str | None = None,
        *,
        limit: int | None = 1,
        timeout_seconds: float | None = None,
        asks: bool = True,
    ) -> DrivenRun:
        """Start a run as a client does."""
        run = DrivenRun(self.store, self.plan, run_id)
        self.runs.append(run)
        commands = decide_start(self.plan, run.run_id, event(START), LIMITS)
        reply = self.store.start(
            run.run_id, self.plan, commands, nonce="n", timeout_seconds=timeout_seconds, num_concurrent_runs=limit
        )
        run.heard(reply)
        if limit is not None and asks:
            self.quota.take(run.run_id)
        return run

    def cancel(self, run: DrivenRun) -> None:
        """Cancel a run as a client does."""
        ended = self.store.finish(run.run_id, "cancelled", ending(CANCELLED))
        if ended is not None:
            self.quota.pass_on(ended.leaving)

    def commit(self, run: DrivenRun, outcome: Any, step_name: str = "begin") -> Applied:
        """Claim and commit a step as a worker does."""
        self.dispatched(run)
        applied = run.commit(run.claim(step_name), outcome)
        self.quota.pass_on(applied.leaving)
        return applied

    def dispatched(self, run: DrivenRun) -> None:
        """Collect the dispatches of all ready work, as if none had been lost."""
        run.dispatches.clear()
        for raw in self.store.client.hkeys(run.keys["work"]):
            record = run.record(raw.decode())
            if record.state == "ready":
                run.dispatches.append(
                    Dispatch(run.run_id, raw.decode(), record.dispatch_no, record.step, record.queue, 0)
                )

    def sweep(self) -> None:
        """Sweep, with every admission check due."""
        make_checks_due(self.store)
        blocking_sweep(self.store, self, lambda _: 0).sweep(everything=True)

    def running(self) -> list[str]:
        """Return the runs that have been admitted and have not ended."""
        found = self.store.runs(status="running")
        return sorted(record.run_id for record in found if not record.waits_for_admission)

    def admission(self, run: DrivenRun) -> Admission:
        """A run's admission."""
        member = self.store.client.hget(run.keys["run"], "ticket")
        assert member is not None
        return Admission.of(self.plan.workflow, member.decode())


def index_keys(store: Store, *names: str) -> Iterator[str]:
    """Yield the keys of these names in every shard."""
    for shard in range(store.settings.shards):
        for name in names:
            yield store.keys.in_shard(shard, name)


def make_checks_due(store: Store) -> None:
    for key in index_keys(store, "awaiting_admission", "admitted:W"):
        for member in store.client.zrange(key, 0, -1):
            store.client.zadd(key, {member: 1}, xx=True)


def left_behind(store: Store) -> dict[str, Any]:
    """Return everything about admissions that is still in Redis."""
    return {
        name: content
        for name, content in dump(store.client, store.settings.key_prefix).items()
        if name.split("}:")[1].split(":")[0] in ("unbegun", "leaving", "limits", "places", "waiting")
    }


def completes(crowd: Crowd, run: DrivenRun) -> None:
    crowd.commit(run, stop(1))


def fails(crowd: Crowd, run: DrivenRun) -> None:
    crowd.commit(run, failed())


def is_cancelled(crowd: Crowd, run: DrivenRun) -> None:
    crowd.cancel(run)


def times_out(crowd: Crowd, run: DrivenRun) -> None:
    run.make_due("timeout")
    blocking_sweep(crowd.store, crowd, lambda _: 0).sweep(everything=True)
