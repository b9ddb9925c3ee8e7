"""Fan-outs and their fan-ins: each join fires once, with exactly its members."""

from __future__ import annotations

from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import Body, DrivenRun, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.decide import CHUNK
from umbel.orchestration.model.envelope import START, STEP_FAILED
from umbel.orchestration.model.errors import RunClosed
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.model.work_item import FannedOut, Returned, Work
from umbel.orchestration.store.replies import Applied, Refusal

GATHER = plan_of(
    step("begin", START, collected_by=("all",)),
    step("work", "A", num_workers=2),
    step("all", "M", kind="collect"),
)


def many(name: str, n: int) -> FannedOut:
    return FannedOut(tuple(event(name, i=i) for i in range(n)))


def number(work: Work) -> int:
    return int(work.bound[0].value()["i"])


def pass_on(work: Work) -> Returned:
    return Returned(event("M", i=number(work)))


def gathered(store: Store, work: Work, field: str = "i") -> list[Any]:
    return [member.value()[field] for member in store.members(work)]


@pytest.mark.parametrize("n", [0, 1, 7, CHUNK, CHUNK + 1, 1000])
def test_a_fan_out_is_gathered_once_and_whole(store: Store, n: int) -> None:
    run = DrivenRun(store, GATHER).start()
    sets = []

    def together(work: Work) -> Returned:
        sets.append(gathered(store, work))
        return stop(len(sets[-1]))

    executed = run.play({"begin": lambda _: many("A", n), "work": pass_on, "all": together})

    assert executed == n + 2
    assert [sorted(members) for members in sets] == [list(range(n))]
    assert run.result == n


@pytest.mark.parametrize("n", [1, 5, CHUNK + 1])
def test_members_that_are_emitted_directly_are_gathered_in_order(store: Store, n: int) -> None:
    run = DrivenRun(store, GATHER).start()
    run.commit(run.claim("begin"), many("M", n))

    work = run.claim("all")

    assert gathered(store, work) == list(range(n))
    assert (work.members, work.event_name, work.bound) == (n, "umbel.CollectionReleaseEvent", ())


def test_members_come_in_order_of_arrival(store: Store) -> None:
    run = DrivenRun(store, GATHER).start()
    run.commit(run.claim("begin"), many("A", 2))
    first, second = run.claim("work"), run.claim("work")
    run.commit(second, pass_on(second))
    run.commit(first, pass_on(first))

    assert gathered(store, run.claim("all")) == [1, 0]


def test_members_that_another_attempt_has_used_up_are_refused_to_an_earlier_one(store: Store) -> None:
    run = DrivenRun(store, GATHER).start()
    run.commit(run.claim("begin"), many("M", 3))
    earlier = run.claim("all")
    for _, applied in run.leases.hand_back("o1", [Held.parse(earlier.member)], charge=False):
        run.heard(applied)
    later = run.claim("all")
    assert gathered(store, earlier) == gathered(store, later) == [0, 1, 2]
    run.commit(later, Returned(None))

    with pytest.raises(RunClosed, match="of the 3 events it gathered, 0 are left"):
        store.members(earlier)


def test_a_dead_branch_shrinks_the_set(store: Store) -> None:
    run = DrivenRun(store, GATHER).start()
    run.play(
        {
            "begin": lambda _: many("A", 5),
            "work": lambda work: Returned(None) if number(work) % 2 else pass_on(work),
            "all": lambda work: stop(sorted(gathered(store, work))),
        }
    )

    assert run.result == [0, 2, 4]


def test_a_retry_a_wait_and_a_recovery_keep_the_fan_out_open(store: Store) -> None:
    plan = plan_of(*GATHER.steps[:1], step("work", "A"), GATHER.steps[2], step("rescue", STEP_FAILED, recovers=("*",)))
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), many("A", 3))
    retried, asleep, broken = (run.claim("work") for _ in range(3))
    run.commit(retried, failed(100))
    run.commit(asleep, waiting(asleep))
    run.commit(broken, failed())
    assert [dispatch.step for dispatch in run.dispatches] == ["rescue"]

    run.commit(run.claim("rescue"), Returned(event("M", i=2)))
    assert not run.dispatches
    run.make_due(f"retry|{retried.work_id}")
    run.wake("retry", retried.work_id)
    run.commit(run.claim("work"), Returned(event("M", i=0)))
    assert not run.dispatches
    run.send(event("Answer"))
    run.commit(run.claim("work"), Returned(event("M", i=1)))

    assert gathered(store, run.claim("all")) == [2, 0, 1]


def test_nested_fan_outs_are_gathered_by_the_innermost_and_then_one_level_up(store: Store) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("groups",)),
        step("split", "A", collected_by=("group",)),
        step("work", "B"),
        step("group", "M", kind="collect"),
        step("groups", "G", kind="collect"),
    )
    run = DrivenRun(store, plan).start()
    run.play(
        {
            "begin": lambda _: many("A", 4),
            "split": lambda work: FannedOut(tuple(event("B", i=number(work)) for _ in range(number(work)))),
            "work": pass_on,
            "group": lambda work: Returned(event("G", i=gathered(store, work))),
            "groups": lambda work: stop(gathered(store, work)),
        }
    )

    assert sorted(run.result) == [[], [1], [2, 2], [3, 3, 3]]


def test_one_fan_out_feeds_several_joins(store: Store) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("ms", "ns")),
        step("ms", "M", kind="collect"),
        step("ns", "N", kind="collect"),
    )
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut((event("M", i=1), event("N", i=2), event("M", i=3))))

    assert gathered(store, run.claim("ms")) == [1, 3]
    assert gathered(store, run.claim("ns")) == [2]


def take_plan(take: int) -> Plan:
    return plan_of(
        step("begin", START, collected_by=("first",)),
        step("work", "A", num_workers=10),
        step("first", "M", kind="collect", take=take),
    )


def test_take_fires_at_the_nth_arrival_and_the_siblings_continue(store: Store) -> None:
    run = DrivenRun(store, take_plan(2)).start()
    run.commit(run.claim("begin"), many("A", 4))
    works = [run.claim("work") for _ in range(4)]
    run.commit(works[3], pass_on(works[3]))
    assert not run.dispatches
    run.commit(works[1], pass_on(works[1]))
    taken = run.claim("first")
    run.commit(works[0], pass_on(works[0]))

    assert gathered(store, taken) == [3, 1]
    run.commit(taken, Returned(None))
    run.commit(works[2], pass_on(works[2]))
    assert not run.dispatches
    assert store.run(run.run_id).live == 0
    for name in ("scopes", "work", "events", "extra"):
        assert run.content(name) is None, name


@pytest.mark.parametrize("n", [0, 1, 2, 3, CHUNK + 1])
def test_take_of_direct_members_gets_what_there_is(store: Store, n: int) -> None:
    run = DrivenRun(store, take_plan(2)).start()
    run.commit(run.claim("begin"), many("M", n))

    assert gathered(store, run.claim("first")) == list(range(min(n, 2)))
    assert not run.dispatches


def test_take_fires_with_less_when_the_fan_out_has_closed(store: Store) -> None:
    run = DrivenRun(store, take_plan(3)).start()
    run.play(
        {
            "begin": lambda _: many("A", 3),
            "work": lambda work: pass_on(work) if number(work) else Returned(None),
            "first": lambda work: stop(sorted(gathered(store, work))),
        }
    )

    assert run.result == [1, 2]


def test_an_item_that_is_lost_and_repeated_is_gathered_once(store: Store) -> None:
    run = DrivenRun(store, GATHER).start()
    run.commit(run.claim("begin"), many("A", 2))
    lost, other = run.claim("work", owner="dies"), run.claim("work")
    run.leases.fence("dies", run.keys.shard, known_dead=True)
    for _, applied in run.leases.hand_back("dies", [Held.parse(lost.member)], charge=True):
        run.heard(applied)
    run.commit(other, pass_on(other))
    again = run.claim("work", owner="o2")
    run.commit(again, pass_on(again))

    assert run.try_commit(lost, pass_on(lost)) is Refusal.STALE
    work = run.claim("all")
    assert gathered(store, work) == [1, 0]
    assert not run.dispatches
    assert run.commit(work, stop()) == Applied((), True)


# -- joins of several parameters ---------------------------------------------------------------------------------------


def join_run(store: Store, *accepts: str, **more: Any) -> DrivenRun:
    plan = plan_of(step("begin", START), step("pair", *accepts, kind="all_of", **more))
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), Returned(None))
    return run


def sets(run: DrivenRun) -> list[list[tuple[str, Any]]]:
    """Return all ready sets, each as (type, i) in parameter order."""
    found = []
    while run.dispatches:
        work = run.claim("pair")
        found.append([(bound.type, bound.value().get("i")) for bound in work.bound])
        run.commit(work, Returned(None))
    return found


def send_all(run: DrivenRun, *names: str) -> None:
    for i, name in enumerate(names):
        run.send(event(name, i=i))


def test_a_join_waits_for_all_and_binds_in_parameter_order(store: Store) -> None:
    run = join_run(store, "A", "B", "C")
    send_all(run, "C", "A")
    assert not run.dispatches
    assert store.run(run.run_id).live == 0
    send_all(run, "B")

    assert sets(run) == [[("A", 1), ("B", 0), ("C", 0)]]


def test_repeated_sets_fire_repeatedly_first_in_first_out(store: Store) -> None:
    run = join_run(store, "A", "B")
    send_all(run, "A", "A", "B", "B", "B", "A")

    assert sets(run) == [[("A", 0), ("B", 2)], [("A", 1), ("B", 3)], [("A", 5), ("B", 4)]]


def test_slots_of_one_type_bind_in_order_of_arrival(store: Store) -> None:
    run = join_run(store, "A", "B", "A")
    send_all(run, "A", "A", "A", "B", "B", "A")

    assert sets(run) == [[("A", 0), ("B", 3), ("A", 1)], [("A", 2), ("B", 4), ("A", 5)]]


def test_a_join_that_accepts_children_fills_the_nearest_slot(store: Store) -> None:
    run = join_run(store, "Parent", "B", accepts_subclasses=True)
    run.send(event("Child", "Parent", i=1))
    run.send(event("B", "Parent", i=2))

    assert sets(run) == [[("Child", 1), ("B", 2)]]


def test_joins_of_different_fan_outs_never_mix(store: Store) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("all",)),
        step("split", "A"),
        step("pair", "L", "R", kind="all_of"),
        step("all", "M", kind="collect"),
    )
    run = DrivenRun(store, plan).start()
    both: Body = lambda work: FannedOut((event("L", i=number(work)), event("R", i=number(work))))  # noqa: E731
    run.play(
        {
            "begin": lambda _: many("A", 3),
            "split": both,
            "pair": lambda work: Returned(event("M", i=[bound.value()["i"] for bound in work.bound])),
            "all": lambda work: stop(sorted(gathered(store, work))),
        }
    )

    assert run.result == [[0, 0], [1, 1], [2, 2]]


def test_a_join_spends_the_largest_recovery_count_of_its_members(store: Store) -> None:
    plan = plan_of(
        step("begin", START),
        step("fragile", "A"),
        step("rescue", STEP_FAILED, recovers=("fragile",)),
        step("pair", "L", "R", kind="all_of"),
    )
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), Returned(event("A")))
    run.commit(run.claim("fragile"), failed())
    run.commit(run.claim("rescue"), Returned(event("L")))
    run.send(event("R"))

    assert run.claim("pair").recoveries == {"rescue": 1}
