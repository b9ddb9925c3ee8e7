"""At most so many runs of a workflow go on at once, in the order of their starts; no crash costs a place for good."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from redis.exceptions import ResponseError

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_sweep
from support.store.checks import checked_store, mutant_store
from support.store.driving import LIMITS, DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.engine.concurrency import Admission, RunQuota
from umbel.orchestration.model.decide import decide_start
from umbel.orchestration.model.envelope import CANCELLED, START, ending
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.snapshots.restore import begin_from
from umbel.orchestration.snapshots.take import take_snapshot
from umbel.orchestration.store.connection import Client
from umbel.orchestration.store.keys import new_id
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.replies import Applied, Dispatch, Refusal
from umbel.orchestration.store.settings import Settings

PLAN = plan_of(step("begin", START), step("work", "A", num_workers=1), step("asks", "Q"))


class Crowd:
    """Runs of one limited workflow, over a store; `rung` are the dispatches of what began."""

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
        """The runs that were rung for since the last look, in order."""
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
        if self.store.finish(run.run_id, "cancelled", ending(CANCELLED)):
            self.quota.pass_on_of(run.run_id)

    def commit(self, run: DrivenRun, outcome: Any, step_name: str = "begin") -> Applied:
        """Claim and commit a step as a worker does."""
        self.dispatched(run)
        applied = run.commit(run.claim(step_name), outcome)
        self.quota.pass_on(applied.leaving)
        return applied

    def dispatched(self, run: DrivenRun) -> None:
        """Hear the dispatches of what is dispatched, as if none had been lost."""
        run.dispatches.clear()
        for raw in self.store.client.hkeys(run.keys["work"]):
            record = run.record(raw.decode())
            if record.state == "ready":
                run.dispatches.append(
                    Dispatch(run.run_id, raw.decode(), record.dispatch_no, record.step, record.queue, 0)
                )

    def sweep(self) -> None:
        """Sweep with everything due that concerns places."""
        make_looks_due(self.store)
        blocking_sweep(self.store, self, lambda _: 0).sweep(everything=True)

    def going_on(self) -> list[str]:
        """The runs that have begun and not ended."""
        found = self.store.runs(status="running")
        return sorted(record.run_id for record in found if not record.waits_for_admission)

    def ticket(self, run: DrivenRun) -> Admission:
        """A run's ticket."""
        member = self.store.client.hget(run.keys["run"], "ticket")
        assert member is not None
        return Admission.of(self.plan.workflow, member.decode())


def index_keys(store: Store, *names: str) -> Iterator[str]:
    """Keys of these names in every shard."""
    for shard in range(store.settings.shards):
        for name in names:
            yield store.keys.in_shard(shard, name)


def make_looks_due(store: Store) -> None:
    for key in index_keys(store, "awaiting_admission", "admitted:W"):
        for member in store.client.zrange(key, 0, -1):
            store.client.zadd(key, {member: 1}, xx=True)


def left_behind(store: Store) -> dict[str, Any]:
    """Everything about places that is still in Redis."""
    return {
        name: content
        for name, content in dump(store.client, store.settings.key_prefix).items()
        if name.split("}:")[1].split(":")[0] in ("unbegun", "leaving", "limits", "places", "waiting")
    }


@pytest.fixture
def crowd(store: Store) -> Crowd:
    return Crowd(store)


# -- the limit ---------------------------------------------------------------------------------------------------------


def test_as_many_begin_as_have_a_place_and_the_others_in_the_order_of_their_starts(crowd: Crowd) -> None:
    ids = [f"run{n}" for n in (3, 1, 4, 0, 5, 2)]
    assert len({crowd.store.locate(run_id).shard for run_id in ids}) == 2
    runs = [crowd.start(run_id, limit=2) for run_id in ids]

    assert crowd.begun() == ids[:2]
    assert crowd.going_on() == sorted(ids[:2])

    crowd.cancel(runs[1])
    assert crowd.begun() == [ids[2]]
    crowd.cancel(runs[0])
    assert crowd.begun() == [ids[3]]
    assert crowd.going_on() == sorted(ids[2:4])


def test_a_run_that_waits_is_running_and_nothing_of_it_is_dispatched(crowd: Crowd) -> None:
    crowd.start()
    run = crowd.start(timeout_seconds=50)

    assert run.status == "running"
    assert crowd.store.run(run.run_id).waits_for_admission
    assert not run.dispatches
    assert run.content("work") is None
    assert not any(run.run_id.encode() in member for member, _ in run.content("timers") or ())


def test_a_time_out_counts_from_the_begin(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start(timeout_seconds=50)
    seconds, micros = crowd.store.client.time()
    crowd.cancel(first)

    due_at = crowd.store.client.zscore(run.keys["timers"], f"timeout|{run.run_id}")
    assert due_at is not None
    assert due_at >= seconds * 1000 + micros // 1000 + 50_000
    assert not crowd.store.run(run.run_id).waits_for_admission


def completes(crowd: Crowd, run: DrivenRun) -> None:
    crowd.commit(run, stop(1))


def fails(crowd: Crowd, run: DrivenRun) -> None:
    crowd.commit(run, failed())


def is_cancelled(crowd: Crowd, run: DrivenRun) -> None:
    crowd.cancel(run)


def times_out(crowd: Crowd, run: DrivenRun) -> None:
    run.make_due("timeout")
    blocking_sweep(crowd.store, crowd, lambda _: 0).sweep(everything=True)


@pytest.mark.parametrize("ends", [completes, fails, is_cancelled, times_out])
def test_whatever_way_a_run_ends_the_next_one_begins_at_once(
    crowd: Crowd, ends: Callable[[Crowd, DrivenRun], None]
) -> None:
    first, second = crowd.start(timeout_seconds=100), crowd.start()

    ends(crowd, first)

    assert first.status != "running"
    assert crowd.going_on() == [second.run_id]
    assert [dispatch.run_id for dispatch in crowd.sent] == [first.run_id, second.run_id]
    assert not any(key.endswith("leaving") for key in left_behind(crowd.store))


def test_when_all_have_ended_nothing_is_left(crowd: Crowd) -> None:
    runs = [crowd.start(limit=2) for _ in range(5)]

    for run in runs:
        crowd.cancel(run)

    assert left_behind(crowd.store) == {}


def test_a_waiting_run_that_is_cancelled_leaves_the_line(crowd: Crowd) -> None:
    first, second, third = (crowd.start() for _ in range(3))

    crowd.cancel(second)
    for key in index_keys(crowd.store, "waiting:W"):
        assert crowd.store.client.zscore(key, crowd.ticket(second).member) is None
    crowd.cancel(first)

    assert crowd.going_on() == [third.run_id]
    assert crowd.begun() == [first.run_id, third.run_id]


def test_the_newest_limit_counts(crowd: Crowd) -> None:
    first, second, third = (crowd.start(limit=1) for _ in range(3))

    fourth = crowd.start(limit=3)
    assert crowd.begun() == [first.run_id, second.run_id, third.run_id]

    fifth = crowd.start(limit=1)
    crowd.sweep()  # those that wait ask again, and do not bring back what they said
    for run in (first, second):
        crowd.cancel(run)
        assert crowd.going_on() == sorted(
            {second.run_id, third.run_id} - {run.run_id} if run is first else {third.run_id}
        )
    crowd.cancel(third)
    assert crowd.going_on() == [fourth.run_id]
    crowd.cancel(fourth)
    assert crowd.going_on() == [fifth.run_id]


def test_an_older_run_that_asks_late_does_not_bring_its_limit_back(crowd: Crowd) -> None:
    first = crowd.start(limit=1)
    late = crowd.start(limit=7, asks=False)
    crowd.start(limit=1)
    limits = next(key for key in index_keys(crowd.store, "limits") if crowd.store.client.exists(key))
    crowd.store.client.hset(limits, "W", f"1 {crowd.store.run(late.run_id).created_at + 1}")

    crowd.quota.take(late.run_id)

    assert crowd.going_on() == [first.run_id]


def test_runs_without_a_limit_are_neither_counted_nor_held_up(crowd: Crowd) -> None:
    limited = [crowd.start() for _ in range(2)]
    free = crowd.start(limit=None)

    assert crowd.going_on() == sorted([limited[0].run_id, free.run_id])
    crowd.cancel(free)
    assert crowd.going_on() == [limited[0].run_id]
    assert crowd.store.client.hmget(free.keys["run"], "ticket", "limit", "unbegun") == [None] * 3


def test_workflows_have_places_of_their_own(store: Store) -> None:
    crowds = [Crowd(store, replace(PLAN, workflow=name)) for name in ("W", "W:waiting", "V|1|W")]

    runs = [[crowd.start() for _ in range(2)] for crowd in crowds]

    assert crowds[0].going_on() == sorted(first.run_id for first, _ in runs)
    for crowd, (first, _) in zip(crowds, runs, strict=True):
        crowd.cancel(first)
    assert crowds[0].going_on() == sorted(second.run_id for _, second in runs)


# -- what happens to a run that waits ----------------------------------------------------------------------------------


def test_what_is_sent_to_a_waiting_run_is_kept_until_it_begins(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start()

    for send_id in ("s1", "s1", "s2"):
        assert run.send(event("A"), send_id=send_id) == Applied()
    assert run.send(event("Answer")) == Applied()

    crowd.cancel(first)
    assert [dispatch.step for dispatch in crowd.sent if dispatch.run_id == run.run_id] == ["begin", "work"]
    assert len(crowd.store.surroundings(run.run_id).inbox) == 1
    assert crowd.store.run(run.run_id).live == 3


def test_a_start_that_is_asked_again_does_not_begin_a_waiting_run(crowd: Crowd) -> None:
    crowd.start()
    run = crowd.start()

    again = crowd.start(run.run_id)

    assert not again.dispatches
    assert crowd.store.run(run.run_id).waits_for_admission


def test_a_late_asking_gives_no_place_to_a_run_that_has_ended(crowd: Crowd) -> None:
    first, second = crowd.start(), crowd.start()
    late = crowd.ticket(second)
    crowd.cancel(second)

    crowd.quota.admit(late, 1, said_at=1)  # it was on its way all the time
    third = crowd.start()
    crowd.cancel(first)

    assert crowd.going_on() == [third.run_id]
    crowd.cancel(third)
    assert left_behind(crowd.store) == {}


# -- another life ------------------------------------------------------------------------------------------------------


def test_a_revived_run_waits_for_a_place_again(crowd: Crowd) -> None:
    first = crowd.start()
    crowd.commit(first, failed())
    second = crowd.start()
    old = crowd.ticket(first)
    assert crowd.begun() == [first.run_id, second.run_id]

    assert crowd.store.revive(first.run_id, timeout_seconds=100) == Applied()
    crowd.quota.take(first.run_id)
    assert crowd.going_on() == [second.run_id]
    assert crowd.store.client.zscore(first.keys["timers"], f"timeout|{first.run_id}") is None

    crowd.commit(second, stop())
    assert crowd.going_on() == [first.run_id]
    assert crowd.store.client.zscore(first.keys["timers"], f"timeout|{first.run_id}") is not None
    third = crowd.start()
    crowd.quota.release(old)  # somebody who was slow gives back the place of the first life
    assert crowd.going_on() == [first.run_id]
    crowd.commit(first, stop(2))
    assert first.result == 2
    assert crowd.going_on() == [third.run_id]


def test_a_revived_run_asks_by_itself(crowd: Crowd) -> None:
    run = crowd.start()
    crowd.commit(run, failed())
    crowd.store.revive(run.run_id, timeout_seconds=None)

    crowd.sweep()

    assert crowd.going_on() == [run.run_id]


def test_a_run_that_never_began_can_be_revived(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start()
    crowd.cancel(run)

    for _ in range(2):
        assert crowd.store.revive(run.run_id, timeout_seconds=None) == Applied()
        crowd.quota.take(run.run_id)
        assert crowd.store.run(run.run_id).waits_for_admission
        crowd.cancel(run)
    crowd.store.revive(run.run_id, timeout_seconds=None)
    crowd.quota.take(run.run_id)
    crowd.cancel(first)

    crowd.commit(run, stop(1))
    assert run.result == 1


def test_a_life_that_is_over_does_not_begin(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start()
    old = crowd.ticket(run)
    crowd.cancel(run)
    crowd.store.revive(run.run_id, timeout_seconds=None)

    assert not crowd.quota.begin(old)
    assert crowd.going_on() == [first.run_id]


def test_what_wakes_in_a_waiting_run_goes_on_when_it_begins(crowd: Crowd) -> None:
    run = crowd.start()
    crowd.cancel(run)
    crowd.store.revive(run.run_id, timeout_seconds=None)
    crowd.quota.take(run.run_id)
    crowd.dispatched(run)
    work = run.claim("begin")
    crowd.quota.pass_on(run.commit(work, waiting(work, timeout_seconds=100)).leaving)
    crowd.cancel(run)
    other = crowd.start()
    crowd.store.revive(run.run_id, timeout_seconds=None)
    crowd.quota.take(run.run_id)
    crowd.begun()

    run.make_due(f"waiter|{work.work_id}|w")
    assert run.wake("waiter", work.work_id, "w") == Applied()
    assert crowd.begun() == []
    crowd.cancel(other)

    assert crowd.begun() == [run.run_id]


def test_a_restored_run_waits_for_a_place_with_all_it_has(crowd: Crowd) -> None:
    source = crowd.start(limit=None)
    work = source.claim("begin")
    source.commit(work, waiting(work, timeout_seconds=100))
    source.send(event("A"))
    saved = crowd.store.call(take_snapshot, crowd.store, source.run_id)
    first, run = crowd.start(), DrivenRun(crowd.store, PLAN)
    given: dict[str, Any] = {"nonce": "n", "timeout_seconds": 9, "options": {}, "num_concurrent_runs": 1}
    assert crowd.store.call(begin_from, crowd.store, run.run_id, PLAN, saved, (), LIMITS, **given) == Applied()
    crowd.quota.take(run.run_id)

    run.make_due(f"waiter|{work.work_id}|w")
    assert run.wake("waiter", work.work_id, "w") == Applied()
    assert crowd.begun() == [first.run_id]
    crowd.cancel(first)

    assert sorted(dispatch.step for dispatch in crowd.sent) == ["begin", "work"]
    assert crowd.begun() == [run.run_id]


# -- the sweep ---------------------------------------------------------------------------------------------------------


def test_a_holder_that_has_vanished_loses_its_place(crowd: Crowd) -> None:
    first, second = crowd.start(), crowd.start()
    crowd.store.client.delete(first.keys["run"])

    crowd.sweep()

    assert crowd.going_on() == [second.run_id]


def test_a_waiting_run_that_has_vanished_is_forgotten(crowd: Crowd) -> None:
    first, second, third = (crowd.start() for _ in range(3))
    crowd.store.client.delete(second.keys["run"])
    crowd.sweep()

    crowd.cancel(first)

    assert crowd.going_on() == [third.run_id]
    crowd.cancel(third)
    assert left_behind(crowd.store) == {}


def test_who_has_waited_long_is_looked_at_less_often(crowd: Crowd) -> None:
    crowd.start()
    run = crowd.start()
    look_at = partial(crowd.store.client.zscore, run.keys["awaiting_admission"], run.run_id)
    settings = crowd.store.settings
    started_at = crowd.store.run(run.run_id).created_at
    first_look = look_at()
    assert first_look == pytest.approx(started_at + settings.redispatch_seconds * 1000, abs=2_000)

    for minutes in (20, 40, 10_000):
        now = started_at + minutes * 60_000
        crowd.quota.look_at(run.run_id, now)
        pause = min(minutes * 60, settings.redispatch_max_seconds) * 1000
        assert look_at() == pytest.approx(now + pause, abs=2_000)


def test_a_holder_that_goes_on_is_left_alone(crowd: Crowd) -> None:
    run = crowd.start()
    crowd.begun()
    make_looks_due(crowd.store)
    place = next(key for key in index_keys(crowd.store, "admitted:W") if crowd.store.client.exists(key))

    blocking_sweep(crowd.store, crowd, lambda _: 0).sweep(everything=True)

    assert crowd.begun() == []
    [(_, look)] = crowd.store.client.zrange(place, 0, -1, withscores=True)
    assert look > crowd.store.run(run.run_id).created_at + crowd.store.settings.redispatch_seconds * 1000


# -- crashes -----------------------------------------------------------------------------------------------------------


class Died(BaseException):
    """The process is gone: nobody handles that."""


class MortalConnection(Connection):
    """The process dies once, at its n-th exchange with Redis: before it is sent, or before the reply is seen."""

    exchanges = dies_at = 0
    is_applied = False

    async def _reply(self, request: Any) -> Any:
        return await self._mortal(super()._reply(request))

    async def _all(self, requests: Any) -> Any:
        return await self._mortal(super()._all(requests))

    async def _mortal(self, exchange: Coroutine[Any, Any, Any]) -> Any:
        self.exchanges += 1
        if self.exchanges != self.dies_at:
            return await exchange
        if self.is_applied:
            await exchange
        else:
            exchange.close()
        raise Died


def mortal_store(client: Client, settings: Settings, dies_at: int, *, applied: bool) -> Store:
    store = checked_store(client, settings)
    assert settings.redis_url is not None
    connection = MortalConnection(settings.redis_url, store.portal)
    connection.dies_at, connection.is_applied = dies_at, applied
    store.wrapped.connection = connection
    return store


def life(crowd: Crowd) -> Iterator[Callable[[], object]]:
    """Everything that happens with places, as operations of processes of their own: each may die on the way."""

    def started(n: int) -> Callable[[], object]:
        return lambda: crowd.start(f"run{n}")

    def ended(n: int, how: Callable[[Crowd, DrivenRun], None]) -> Callable[[], object]:
        def end() -> None:
            run = crowd.runs[n]
            exists = crowd.store.client.hget(run.keys["run"], "status") == b"running"
            if exists and (how is is_cancelled or not crowd.store.run(run.run_id).waits_for_admission):
                how(crowd, run)

        return end

    def revived(n: int) -> Callable[[], object]:
        def revive() -> None:
            run = crowd.runs[n]
            if crowd.store.client.hget(run.keys["run"], "status") not in (None, b"running"):
                crowd.store.revive(run.run_id, timeout_seconds=None)
                crowd.quota.take(run.run_id)

        return revive

    for n in range(4):
        yield started(n)
    yield ended(0, fails)
    yield ended(2, is_cancelled)
    yield revived(0)
    yield revived(2)
    yield started(4)
    yield crowd.sweep
    yield ended(1, completes)
    yield ended(3, is_cancelled)


def live(client: Client, settings: Settings, dies_at: int, *, applied: bool) -> tuple[Crowd, bool]:
    """The operations of `life`, of which one process dies; whether one did."""
    crowd = Crowd(mortal_store(client, settings, dies_at, applied=applied))
    survivors = Crowd(checked_store(client, settings))
    died = False
    for operation in life(crowd):
        try:
            operation()
        except Died:
            died = True
        assert len(survivors.going_on()) <= 1
    survivors.runs = crowd.runs
    return survivors, died


#: More exchanges with Redis than `life` has.
EXCHANGES = 80


@pytest.mark.parametrize("applied", [False, True], ids=["before it is sent", "before the reply"])
def test_wherever_a_process_dies_every_run_gets_its_place_and_never_two_have_one(
    client: Client, settings: Settings, applied: bool
) -> None:
    deaths = 0
    for dies_at in range(1, EXCHANGES):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{dies_at}"})
        crowd, died = live(client, own, dies_at, applied=applied)
        deaths += died
        begun: list[str] = []
        for _ in range(12):
            crowd.sweep()
            going_on = crowd.going_on()
            assert len(going_on) <= 1, f"{going_on} go on after a death at {dies_at}"
            for run_id in going_on:
                begun.append(run_id)
                run = next(run for run in crowd.runs if run.run_id == run_id)
                assert run.content("work"), f"nothing of {run_id} is dispatched after a death at {dies_at}"
                crowd.store.finish(run_id, "cancelled", event("x"))  # and nobody passes its place on
        assert crowd.store.runs(status="running") == [], f"somebody waits for good after a death at {dies_at}"
        assert len(begun) == len(set(begun))
        crowd.sweep()
        assert left_behind(crowd.store) == {}, f"after a death at {dies_at}"
    assert 50 < deaths < EXCHANGES - 1  # each exchange has been the last one of somebody


# -- every guard is needed ---------------------------------------------------------------------------------------------

GUARDS = [
    (
        "start",
        "not awaits_admission and take_slot",
        "take_slot",
        test_a_run_that_waits_is_running_and_nothing_of_it_is_dispatched,
    ),
    ("send", "awaits_admission = meta[3]", "", test_what_is_sent_to_a_waiting_run_is_kept_until_it_begins),
    ("wake", "awaits_admission = meta[2]", "", test_what_wakes_in_a_waiting_run_goes_on_when_it_begins),
    ("begin", "or meta[2] ~= A.ticket", "", test_a_life_that_is_over_does_not_begin),
    ("begin", "meta[1] ~= 'running' or", "", test_a_late_asking_gives_no_place_to_a_run_that_has_ended),
    ("admit", "<= A.said_at", "<= A.since", test_an_older_run_that_asks_late_does_not_bring_its_limit_back),
    ("leave", "redis.call('ZREM', K.waiting, A.ticket)", "", test_a_waiting_run_that_is_cancelled_leaves_the_line),
    ("revive", "(has_begun or not limit)", "true", test_a_run_that_never_began_can_be_revived),
]


@pytest.mark.parametrize("guard", GUARDS, ids=[f"{verb}: {text}" for verb, text, *_ in GUARDS])
def test_a_missing_guard_is_noticed(client: Client, settings: Settings, guard: tuple[str, str, str, Any]) -> None:
    verb, text, without, scenario = guard
    with pytest.raises((AssertionError, ResponseError)):
        scenario(Crowd(mutant_store(client, settings, {verb: (text, without)})))


def test_a_commit_of_an_unlimited_run_asks_redis_nothing_more(client: Client, settings: Settings) -> None:
    crowd = Crowd(mortal_store(client, settings, 0, applied=True))
    run = crowd.start(limit=None)
    work = run.claim("begin")
    store = crowd.store
    connection = store.wrapped.connection
    run.store = checked_store(client, settings)
    before = connection.exchanges

    crowd.quota.pass_on(run.commit(work, stop()).leaving)

    assert connection.exchanges == before
    assert run.ask(Dispatch(run.run_id, new_id(), 1, "begin", "umbel", 0)) is Refusal.CLOSED
