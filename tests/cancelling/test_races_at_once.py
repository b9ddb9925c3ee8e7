"""A join that has all it takes: the process that made it fire cancels the other branches, not a sweep."""

from __future__ import annotations

from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches
from support.store.driving import DrivenRun, event, plan_of, step
from umbel.orchestration.engine.emitted import Emitted
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut, Returned, Scope
from umbel.orchestration.store.record import decode

PLAN = plan_of(
    step("begin", START, collected_by=("end",)),
    step("go", "Leg", num_workers=3),
    step("end", "Arrived", kind="collect", take=1, cancel_rest=True),
)


def test_the_commit_of_the_last_event_that_a_join_takes_cancels_the_rest(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    sent = SentDispatches()
    engine = store.over(Engine, sent)
    legs = tuple(event("Leg", n=n) for n in range(3))
    engine.commit(run.claim("begin"), PLAN, FannedOut(legs), Emitted(), entry={"out": ""})
    run.dispatches.extend(sent.sent)
    first = run.claim("go")

    engine.commit(first, PLAN, Returned(event("Arrived", n=0)), Emitted(), entry={"out": ""})

    left = [decode(raw).step for raw in store.client.hgetall(run.keys["work"]).values()]
    assert left == ["end"]


def test_a_join_within_the_fan_out_that_is_cancelled_goes_with_it(store: Store) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("end",)),
        step("split", "Leg", num_workers=3, collected_by=("inner",)),
        step("go", "Part", num_workers=3),
        step("inner", "Went", kind="collect"),
        step("end", "Arrived", kind="collect", take=1, cancel_rest=True),
    )
    run, sent = DrivenRun(store, plan).start(), SentDispatches()
    engine = store.over(Engine, sent)
    engine.commit(run.claim("begin"), plan, FannedOut((event("Leg"), event("Leg"))), Emitted(), entry={"out": ""})
    run.dispatches.extend(sent.sent)
    sent.sent.clear()
    engine.commit(run.claim("split"), plan, FannedOut((event("Part"),)), Emitted(), entry={"out": ""})

    engine.commit(run.claim("split"), plan, Returned(event("Arrived")), Emitted(), entry={"out": ""})

    left = [decode(raw).step for raw in store.client.hgetall(run.keys["work"]).values()]
    assert left == ["end"]


def test_a_cancellation_of_the_rest_that_redis_does_not_know_of_changes_nothing(store: Store) -> None:
    """A process has heard that the join has all it takes; then Redis was set back to before that."""
    run, sent = DrivenRun(store, PLAN).start(), SentDispatches()
    engine = store.over(Engine, sent)
    legs = tuple(event("Leg", n=n) for n in range(3))
    engine.commit(run.claim("begin"), PLAN, FannedOut(legs), Emitted(), entry={"out": ""})
    work = [decode(raw) for raw in store.client.hgetall(run.keys["work"]).values()]
    [scope_id] = {scope_id for each in work for scope_id, _, _ in Scope(each.scope).levels()}

    store.portal.call(engine.wrapped.outbox.settle(f"rest|{run.run_id}|{scope_id}"))

    assert [each.step for each in work] == ["go"] * 3
    assert [decode(raw) for raw in store.client.hgetall(run.keys["work"]).values()] == work
