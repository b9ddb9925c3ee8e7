"""Snapshots: wherever a run is interrupted, its copy reaches the same end as the run itself."""

from __future__ import annotations

from typing import Any

import pytest

from support.store.blocking import BlockingStore, blocking_store
from support.store.driving import LIMITS, Body, DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.model.commands import Command
from umbel.orchestration.model.decide import CHUNK, decide_start
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.errors import RunNotFound
from umbel.orchestration.model.work_item import FannedOut, Outcome, Returned, Work, buffer_name
from umbel.orchestration.snapshots.restore import PART, begin_from
from umbel.orchestration.snapshots.saved import RunSnapshot
from umbel.orchestration.snapshots.take import take_snapshot
from umbel.orchestration.store.record import WorkRecord
from umbel.orchestration.store.replies import Applied, Refusal
from umbel.orchestration.store.verbs import Store

PLAN = plan_of(
    step("begin", START, collected_by=("gather",)),
    step("side", START),
    step("inner", "A", collected_by=("group",), num_workers=1),
    step("leaf", "B", num_workers=2),
    step("group", "C", kind="collect"),
    step("gather", "D", kind="collect"),
    step("pair", "E", "F", kind="all_of"),
)


def leaf(work: Work) -> Outcome:
    """Return a leaf's outcome: of six leaves one asks a question, one fails at first, and one is a dead branch."""
    number = work.bound[0].value()["n"]
    if number == 1 and not work.answers:
        return waiting(work, timeout_seconds=1000)
    if number == 2 and not work.failures:
        return failed(delay_seconds=500)
    return Returned(None if number == 3 else event("C", n=number))


def total(kind: str) -> Body:
    return lambda work: Returned(event(kind, n=sum(each.value()["n"] for each in gathered[work.work_id])))


gathered: dict[str, list[Envelope]] = {}

BODIES: dict[str, Body] = {
    "begin": lambda work: FannedOut((event("A", n=0), event("A", n=2), event("A", n=4))),
    "side": lambda work: Returned(event("F", n=1000)),
    "inner": lambda work: FannedOut(tuple(event("B", n=work.bound[0].value()["n"] + i) for i in (0, 1))),
    "leaf": leaf,
    "group": total("D"),
    "gather": total("E"),
    "pair": lambda work: stop(sum(each.value()["n"] for each in work.bound)),
}


def play(run: DrivenRun, steps: int = 10_000) -> int:
    """Execute up to `steps` steps; if nothing else is left, answer the question and end the delay."""
    executed = 0
    while executed < steps and run.status == "running":
        if not run.dispatches:
            unblock(run)
        work = run.ask(run.dispatches.popleft())
        if isinstance(work, Work):
            if work.members is not None:
                gathered[work.work_id] = run.store.members(work)
            run.commit(work, BODIES[work.step](work))
            executed += 1
    return executed


def unblock(run: DrivenRun) -> None:
    delayed = [record.work_id for record in records(run) if record.state == "delayed"]
    if delayed:
        run.make_due(f"retry|{delayed[0]}")
        assert run.wake("retry", delayed[0]) is not None
    else:
        assert isinstance(run.send(event("Answer")), Applied)
    assert run.dispatches


def records(run: DrivenRun) -> list[WorkRecord]:
    return [run.record(name.decode()) for name in run.store.client.hkeys(run.keys["work"])]


def restored(run: DrivenRun, snapshot: RunSnapshot | None = None, commands: tuple[Command, ...] = ()) -> DrivenRun:
    """Return a new run made from this one."""
    copy = DrivenRun(run.store, run.plan)
    reply = run.store.call(
        begin_from,
        run.store,
        copy.run_id,
        run.plan,
        snapshot or run.store.call(take_snapshot, run.store, run.run_id),
        commands,
        LIMITS,
        nonce="restored",
        timeout_seconds=None,
        options={},
    )
    copy.heard(reply)
    return copy


def steps_in_all(store: BlockingStore) -> int:
    run = DrivenRun(store, PLAN).start()
    return play(run)


def test_a_copy_made_after_any_number_of_steps_ends_as_the_run_does_and_leaves_it_untouched(
    store: BlockingStore,
) -> None:
    whole = steps_in_all(store)
    assert whole > 15
    for steps in range(whole):
        run = DrivenRun(store, PLAN).start()
        play(run, steps)
        before = dump(store.client, f"{run.keys.tag}run:{run.run_id}")

        copy = restored(run)

        assert dump(store.client, f"{run.keys.tag}run:{run.run_id}") == before
        play(copy)
        play(run)
        assert copy.result == run.result == 1000 + 0 + 1 + 2 + 4 + 5, steps


def test_work_that_is_being_executed_is_executed_again_in_the_copy(store: BlockingStore) -> None:
    run = DrivenRun(store, PLAN).start()
    being_executed = run.claim("begin")

    copy = restored(run)

    assert copy.claim("begin").work_id == being_executed.work_id
    assert copy.claim("side").attempt == 1
    assert isinstance(run.try_commit(being_executed, BODIES["begin"](being_executed)), Applied)


def test_a_copy_of_a_large_fan_out_has_every_branch_once_and_respects_num_workers(store: BlockingStore) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("all",)), step("leaf", "B", num_workers=3), step("all", "C", kind="collect")
    )
    size = CHUNK + PART + 7
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut(tuple(event("B", n=n) for n in range(size))))
    for _ in range(5):
        done = run.claim("leaf")
        run.commit(done, Returned(event("C", n=done.bound[0].value()["n"])))

    copy = restored(run)

    assert len(copy.dispatches) == 3
    seen: list[int] = []

    def leaf(work: Work) -> Outcome:
        seen.append(work.bound[0].value()["n"])
        return Returned(event("C", n=seen[-1]))

    copy.play({"leaf": leaf, "all": lambda work: stop(sorted(e.value()["n"] for e in store.members(work)))})
    assert len(seen) == size - 5
    assert copy.result == list(range(size))


def test_what_a_step_had_sent_early_is_not_delivered_again_by_its_copy(store: BlockingStore) -> None:
    plan = plan_of(step("begin", START), step("note", "N"))
    run = DrivenRun(store, plan).start()
    run.flush(run.claim("begin"), 1, ("identity", event("N")))

    copy = restored(run)

    again = copy.claim("begin")
    assert again.sent_early
    copy.flush(again, 1, ("identity", event("N")))
    assert [dispatch.step for dispatch in copy.dispatches] == ["note"]


def test_what_collect_events_had_gathered_is_gathered_in_the_copy(store: BlockingStore) -> None:
    plan = plan_of(step("pairs", "A", "B", num_workers=9))
    expected = [("A", 1, buffer_name("pairs", "default", "A")), ("B", 1, buffer_name("pairs", "default", "B"))]

    def collect(run: DrivenRun, what: Envelope) -> Any:
        if what.type != "A":
            run.send(what)
        work = run.claim("pairs")
        found = store.collect(
            work,
            buffer="pairs|default",
            call=work.work_id,
            event=what,
            expected=expected,
            taken=f"taken:{work.work_id}",
        )
        run.commit(work, Returned(None), taken=[f"taken:{work.work_id}"] if found else [])
        return found

    run = DrivenRun(store, plan).start(event("A", n=1))
    assert collect(run, event("A", n=1)) is None

    copy = restored(run)

    assert collect(copy, event("B", n=2)) == [event("A", n=1), event("B", n=2)]
    assert restored(copy).content("extra") is None


def test_an_event_in_the_inbox_answers_a_waiter_of_the_copy(store: BlockingStore) -> None:
    plan = plan_of(step("ask", START))
    run = DrivenRun(store, plan).start()
    run.send(event("Answer", n=3))

    copy = restored(run)

    asking = copy.claim("ask")
    copy.commit(asking, waiting(asking))
    [answer] = copy.claim("ask").answers.values()
    assert answer == event("Answer", n=3)


def test_timers_of_the_copy_run_out_when_those_of_the_run_would(store: BlockingStore) -> None:
    plan = plan_of(step("ask", START), step("fail", START))
    run = DrivenRun(store, plan).start()
    asking, failing = run.claim("ask"), run.claim("fail")
    run.commit(asking, waiting(asking, timeout_seconds=100))
    run.commit(failing, failed(delay_seconds=200))

    copy = restored(run)

    def due(of: DrivenRun, member: str) -> float | None:
        kind, _, rest = member.partition("|")
        return store.client.zscore(of.keys["timers"], f"{kind}|{of.run_id}|{rest}")

    for member in (f"waiter|{asking.work_id}|w", f"retry|{failing.work_id}"):
        assert due(copy, member) == due(run, member) is not None
    copy.make_due(f"retry|{failing.work_id}")
    assert copy.wake("retry", failing.work_id) is not None
    again = copy.claim("fail")
    assert (again.attempt, again.last_error) == (2, b'{"exception_message": "broken"}')


def test_a_cancelled_run_can_be_continued_and_a_completed_one_has_only_its_state(store: BlockingStore) -> None:
    run = DrivenRun(store, PLAN).start()
    play(run, 4)
    store.client.hset(run.keys[f"state:{run.run_id}"], "n", "7")
    store.finish(run.run_id, "cancelled", event("cancelled"))
    copy = restored(run)
    play(copy)
    assert copy.result == 1012
    assert copy.content(f"state:{copy.run_id}") == {b"n": b"7"}

    finished = store.call(take_snapshot, store, copy.run_id)

    assert not finished.goes_on
    assert finished == RunSnapshot(workflow="W", status="completed", state={"n": b"7"})
    begun = restored(copy, finished, tuple(decide_start(PLAN, "x", event(START), LIMITS)))
    assert {dispatch.step for dispatch in begun.dispatches} == {"begin", "side"}
    assert begun.content(f"state:{begun.run_id}") == {b"n": b"7"}
    assert store.client.pttl(begun.keys[f"state:{begun.run_id}"]) == -1


def test_a_restoration_that_was_interrupted_continues_and_one_that_is_given_up_is_forgotten(
    store: BlockingStore,
) -> None:
    run = DrivenRun(store, PLAN).start()
    play(run, 8)
    snapshot = store.call(take_snapshot, store, run.run_id)
    copy = DrivenRun(store, PLAN)

    def begin(nonce: str) -> Applied | Refusal:
        about = {"nonce": nonce, "timeout_seconds": None, "options": {}}
        return store.call(begin_from, store, copy.run_id, PLAN, snapshot, (), LIMITS, **about)

    interrupted = blocking_store(store.settings, store.client, InterruptedStore)
    about = {"nonce": "n", "timeout_seconds": None, "options": {}}
    with pytest.raises(Interrupted):
        interrupted.call(begin_from, interrupted, copy.run_id, PLAN, snapshot, (), LIMITS, **about)
    keys = list(store.client.scan_iter(match=f"*{copy.run_id}*"))
    assert keys
    assert all(0 < store.client.pttl(key) <= 3_600_000 for key in keys)
    with pytest.raises(RunNotFound):
        store.run(copy.run_id)

    copy.heard(begin("n"))
    assert begin("other") is Refusal.EXISTS
    assert begin("n") == begin("n")
    assert all(store.client.pttl(key) == -1 for key in store.client.scan_iter(match=f"*{copy.run_id}*"))
    play(copy)
    assert copy.result == 1012


def test_a_run_that_is_not_there_has_no_snapshot(store: BlockingStore) -> None:
    with pytest.raises(RunNotFound, match="'nobody'"):
        store.call(take_snapshot, store, "nobody")


class Interrupted(Exception):
    """The process is killed here."""


class InterruptedStore(Store):
    """A store whose process dies before it can start anything."""

    async def start(self, *args: Any, **more: Any) -> Applied | Refusal:
        raise Interrupted
