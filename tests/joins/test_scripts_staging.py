"""Large fan-outs are staged in Redis ahead of their commit: invisible until then, and removed if it never comes."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, NOTHING, DrivenRun, event, plan_of, step, stop, waiting
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.decide import CHUNK, Decision, decide
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.work_item import FannedOut, Outcome, Returned, Work

PLAN = plan_of(
    step("begin", START, collected_by=("all",)),
    step("asks", START),
    step("work", "A", num_workers=1),
    step("all", "M", kind="collect"),
)
MANY = tuple(event("A", i=i) for i in range(CHUNK + 1))
MEMBERS = tuple(event("M", i=i) for i in range(CHUNK + 1))


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, PLAN).start()


def staged(run: DrivenRun, work: Work, *events: Envelope) -> Decision:
    """Stage a fan-out without committing it."""
    decision = decide(run.plan, work, FannedOut(events), run.store.surroundings(run.run_id), LIMITS)
    assert run.store.stage(work, decision, CHUNK) is None
    return decision


def lose(run: DrivenRun, work: Work) -> None:
    run.leases.fence(work.owner, run.keys.shard, known_dead=True)
    for _, applied in run.leases.hand_back(work.owner, [Held.parse(work.member)], charge=True):
        run.heard(applied)


def test_what_is_staged_is_invisible(run: DrivenRun, store: Store) -> None:
    staged(run, run.claim("begin"), *MANY, *MEMBERS)

    assert [dispatch.step for dispatch in run.dispatches] == ["asks"]
    assert store.run(run.run_id).live == 2
    assert run.content("scopes") is None


def test_a_chunk_staged_twice_is_staged_once(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    decision = staged(run, work, *MANY, *MEMBERS)
    before = store.client.hgetall(run.keys["queue"])
    assert store.stage(work, decision, CHUNK) is None

    assert store.client.hgetall(run.keys["queue"]) == before
    run.heard(store.commit(work, PLAN, decision, surroundings=NOTHING, batches=0, entry={}))
    assert store.run(run.run_id).live == CHUNK + 2
    run.play({name: lambda _: Returned(None) for name in ("work", "asks", "all")})
    assert run.content("queue") is None


@pytest.mark.parametrize("events", [MANY, MEMBERS, MANY + MEMBERS])
def test_what_a_lost_attempt_staged_is_cleared_by_the_next(run: DrivenRun, events: tuple[Envelope, ...]) -> None:
    lost = run.claim("begin", owner="dies")
    decision = staged(run, lost, *events)
    lose(run, lost)

    work = run.claim("begin")
    names = {"work": f"{lost.token}:work", "all": f"members:{decision.scope_id}:all"}
    assert work.segments == {names[name]: len(items) for name, items in decision.staged.items()}
    run.store.unstage(work, CHUNK)

    for name in ("queue", "extra", names["all"]):
        assert run.content(name) is None, name
    assert len(run.content("events")) == 2  # the start event and its count
    run.commit(work, stop())


@pytest.mark.parametrize(
    ("outcome", "members"),
    [(FannedOut(()), []), (FannedOut(MEMBERS[:2]), [0, 1]), (FannedOut(MEMBERS[:1] + MANY[:1]), [0])],
)
def test_members_of_a_lost_attempt_never_count_in_the_next(
    run: DrivenRun, outcome: Outcome, members: list[int]
) -> None:
    lost = run.claim("begin", owner="dies")
    staged(run, lost, *MEMBERS)
    lose(run, lost)
    work = run.claim("begin")
    run.store.unstage(work, CHUNK)
    run.commit(work, outcome)
    if any(dispatch.step == "work" for dispatch in run.dispatches):
        run.commit(run.claim("work"), Returned(None))

    assert [member.value()["i"] for member in run.store.members(run.claim("all"))] == members


def test_a_fan_out_that_is_decided_again_replaces_what_it_has_staged(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    work, asks = run.claim("begin"), run.claim("asks")
    events = (event("A", i=-1), *MANY)
    decision = staged(run, work, *events)
    run.commit(asks, waiting(asks, type_="A"))

    refused = store.commit(work, PLAN, decision, surroundings=NOTHING, batches=0, entry={})
    assert refused == "changed"
    run.commit(work, FannedOut(events))
    order = []
    while run.dispatches:
        following = run.ask(run.dispatches.popleft())
        assert isinstance(following, Work)
        if following.step == "work":
            order.append(following.bound[0].value()["i"])
        elif following.step == "asks":
            assert following.answers == {"w": event("A", i=-1)}
        run.commit(following, Returned(None))

    assert order == [-1, *range(CHUNK + 1)]
    for name in ("queue", "events", "work", "extra"):
        assert run.content(name) is None, name


def test_an_answer_that_is_no_work_any_more_shortens_what_was_staged(store: Store) -> None:
    plan = plan_of(step("begin", START), step("work", "A", num_workers=1))
    run = DrivenRun(store, plan).start()
    work = run.claim("begin")
    run.send(event("A", i=-2))
    asks = run.claim("work")
    events = (event("A", i=-1), *MANY)
    decision = staged(run, work, *events)
    assert len(decision.staged["work"]) == len(events)
    run.commit(asks, waiting(asks, type_="A"))
    run.commit(work, FannedOut(events))

    executed = run.play({"work": lambda _: Returned(None)})

    assert executed == CHUNK + 2
    for name in ("queue", "events", "work"):
        assert run.content(name) is None, name


def test_staging_under_an_old_token_is_refused(store: Store) -> None:
    plan = plan_of(step("begin", START), step("work", "A"))
    run = DrivenRun(store, plan).start()
    late = run.claim("begin")
    run.leases.fence("o1", run.keys.shard, known_dead=True)
    run.leases.hand_back("o1", [Held.parse(late.member)], charge=True)

    refused = run.try_commit(late, FannedOut((event("A"),) * (CHUNK + 1)))

    assert refused == "stale"
    assert run.content("queue") is None
