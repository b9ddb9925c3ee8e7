"""Operations before a step's end and from outside: flush, send, collect, waiters and the inbox."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import NOTHING, DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.model.commands import Publish
from umbel.orchestration.model.decide import Limits, route
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.work_item import Origin, Returned, Work
from umbel.orchestration.store.replies import Applied, Refusal

PLAN = plan_of(step("begin", START), step("work", "A"))


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, PLAN).start()


def published(run: DrivenRun) -> list[bytes]:
    return [fields[b"d"] for _, fields in run.content("stream") or ()]


# -- flush -------------------------------------------------------------------------------------------------------------


def test_a_burst_is_delivered_before_the_step_ends(run: DrivenRun) -> None:
    work = run.claim("begin")
    reply = run.flush(
        work, 1, ("x", event("A", n=1)), ("y", event("A", n=2)), publishes=[Publish(event("P"), "begin", 1)]
    )

    assert isinstance(reply, Applied)
    assert [dispatch.step for dispatch in reply.dispatches] == ["work", "work"]
    assert run.claim("work").bound == (event("A", n=1),)
    assert run.claim("work").bound == (event("A", n=2),)
    assert len(published(run)) == 1
    assert run.store.run(run.run_id).live == 3


def test_a_burst_that_arrives_twice_is_applied_once(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    run.flush(work, 1, ("x", event("A")), publishes=[Publish(event("P"))])
    before = dump(store.client, store.settings.key_prefix)

    assert run.flush(work, 1, ("x", event("A")), publishes=[Publish(event("P"))]) == Applied()
    assert dump(store.client, store.settings.key_prefix) == before


def test_a_burst_that_skips_one_is_refused(run: DrivenRun) -> None:
    work = run.claim("begin")
    run.flush(work, 1, ("x", event("A")))

    assert run.flush(work, 3, ("z", event("A"))) is Refusal.MISSING
    assert isinstance(run.flush(work, 2, ("y", event("A"))), Applied)
    assert run.try_commit(work, Returned(None), batches=3) is Refusal.MISSING


def test_what_an_earlier_attempt_has_sent_is_absorbed_and_what_it_has_not_is_delivered(run: DrivenRun) -> None:
    first = run.claim("begin")
    run.flush(first, 1, ("x", event("A", n=1)), ("y", event("A", n=2)), publishes=[Publish(event("P"), "begin", 1)])
    run.commit(first, failed(0), batches=1)

    second = run.claim("begin")
    assert second.sent_early
    reply = run.flush(
        second, 1, ("x", event("A", n=1)), ("z", event("A", n=3)), publishes=[Publish(event("P"), "begin", 2)]
    )

    assert isinstance(reply, Applied)
    assert len(reply.dispatches) == 1
    assert [run.claim("work").bound[0].value()["n"] for _ in range(3)] == [1, 2, 3]
    assert len(published(run)) == 2
    assert run.content("counters")[b"absorbed_sends"] == b"1"


def test_a_burst_under_an_old_token_changes_nothing(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    run.commit(work, failed(0))
    before = dump(store.client, store.settings.key_prefix)

    assert run.flush(work, 1, ("x", event("A")), publishes=[Publish(event("P"))]) is Refusal.STALE
    assert dump(store.client, store.settings.key_prefix) == before


def test_a_burst_for_an_ended_run_is_closed(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    store.finish(run.run_id, "cancelled", event("x"))

    assert run.flush(work, 1, ("x", event("A"))) is Refusal.CLOSED


def test_the_memory_of_what_was_sent_ends_with_the_work_item(run: DrivenRun) -> None:
    work = run.claim("begin")
    run.flush(work, 1, ("x", event("A")))
    assert run.content("extra") == [run.keys[f"sent:{work.work_id}"].encode()]
    run.commit(work, Returned(None), batches=1)

    assert run.content("extra") is None
    assert run.content(f"sent:{work.work_id}") is None


def test_a_burst_decided_on_outdated_waiters_is_refused(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("asks", START), step("tells", START))).start()
    asks, tells = run.claim("asks"), run.claim("tells")
    commands = route(
        run.plan, event("Answer"), Origin(run.run_id, tells.work_id), "x", store.surroundings(run.run_id), Limits()
    )
    run.commit(asks, waiting(asks))

    refused = store.flush(tells, run.plan, batch=1, surroundings=NOTHING, publishes=[], sends=[("x", commands)])

    assert refused is Refusal.CHANGED
    assert isinstance(run.flush(tells, 1, ("x", event("Answer"))), Applied)
    assert run.claim("asks").answers == {"w": event("Answer")}


def test_two_answers_in_one_burst_resume_once_and_leave_nothing_behind(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("asks", START), step("tells", START))).start()
    asks, tells = run.claim("asks"), run.claim("tells")
    run.commit(asks, waiting(asks))
    run.flush(tells, 1, ("x", event("Answer", n=1)), ("y", event("Answer", n=2)))

    resumed = run.claim("asks")
    assert resumed.answers == {"w": event("Answer", n=1)}
    assert [kept.event for kept in store.surroundings(run.run_id).inbox] == [event("Answer", n=2)]
    run.commit(resumed, Returned(None))
    run.commit(tells, Returned(None), batches=1)
    assert run.content("events") is None


def test_an_answer_whose_waiter_has_left_releases_the_event(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("asks", START), step("tells", START))).start()
    asks, tells = run.claim("asks"), run.claim("tells")
    run.commit(asks, waiting(asks))
    around = store.surroundings(run.run_id)
    origin = Origin(run.run_id, tells.work_id)
    sends = [(name, route(run.plan, event("Answer"), origin, name, around, Limits())) for name in ("x", "y")]
    run.heard(store.flush(tells, run.plan, batch=1, surroundings=around, publishes=[], sends=sends))

    run.commit(run.claim("asks"), Returned(None))
    run.commit(tells, Returned(None), batches=1)
    assert run.content("events") is None


# -- send --------------------------------------------------------------------------------------------------------------


def test_a_send_from_outside_is_delivered_once(run: DrivenRun, store: Store) -> None:
    assert isinstance(run.send(event("A", n=1), send_id="s"), Applied)
    before = dump(store.client, store.settings.key_prefix)

    assert run.send(event("A", n=1), send_id="s") == Applied()
    assert dump(store.client, store.settings.key_prefix) == before
    assert [dispatch.step for dispatch in run.dispatches] == ["begin", "work"]


def test_a_send_to_an_ended_or_unknown_run_is_refused(run: DrivenRun, store: Store) -> None:
    assert run.send(event("A"), send_id="before") == Applied(tuple(run.dispatches)[-1:])
    store.finish(run.run_id, "cancelled", event("x"))

    assert run.send(event("A")) is Refusal.CLOSED
    assert run.send(event("A"), send_id="before") == Applied()
    assert DrivenRun(store, PLAN).send(event("A")) is Refusal.UNKNOWN


# -- waiters and the inbox ---------------------------------------------------------------------------------------------


def test_a_suspended_step_holds_nothing_but_its_slot(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    run.commit(work, waiting(work))

    record = run.record(work.work_id)
    assert record.state == "suspended"
    for name in ("slots", "unclaimed", "owner:o1"):
        assert run.content(name) is None, name
    assert [w.waiter_id for w in store.surroundings(run.run_id).waiters] == ["w"]
    assert store.run(run.run_id).live == 1


def test_an_answer_resumes_the_step_from_the_top_with_the_event(run: DrivenRun) -> None:
    work = run.claim("begin")
    run.commit(work, waiting(work))
    run.send(event("Answer", n=1))

    resumed = run.claim("begin")

    assert resumed.answers == {"w": event("Answer", n=1)}
    assert (resumed.attempt, resumed.resumptions) == (1, 1)
    assert resumed.bound == work.bound
    run.commit(resumed, stop("answered"))
    assert run.result == "answered"


def test_a_second_answer_is_kept_instead_of_resuming_twice(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    run.commit(work, waiting(work))
    run.send(event("Answer", n=1))
    run.send(event("Answer", n=2))

    assert len(run.dispatches) == 1
    resumed = run.claim("begin")
    run.commit(resumed, waiting(resumed, "next"))
    assert run.claim("begin").answers == {"w": event("Answer", n=1), "next": event("Answer", n=2)}
    assert store.surroundings(run.run_id).inbox == ()


def test_an_answer_that_is_quicker_than_the_question_is_found(run: DrivenRun) -> None:
    work = run.claim("begin")
    run.send(event("Answer", n=1))
    run.commit(work, waiting(work))

    assert run.claim("begin").answers == {"w": event("Answer", n=1)}
    assert run.content("inbox") is None


def test_of_two_waiters_for_one_early_answer_one_gets_it(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("one", START), step("two", START))).start()
    one, two = run.claim("one"), run.claim("two")
    run.send(event("Answer"))
    run.commit(one, waiting(one))
    run.commit(two, waiting(two))

    assert [dispatch.step for dispatch in run.dispatches] == ["one"]


def test_the_inbox_is_bounded_and_forgets_the_oldest(run: DrivenRun, store: Store) -> None:
    for n in range(5):
        around = store.surroundings(run.run_id)
        commands = route(PLAN, event("X", n=n), Origin(run.run_id, "o"), f"e{n}", around, Limits(inbox_max_events=3))
        store.send(run.run_id, f"s{n}", commands, surroundings=around)

    assert [kept.event.value()["n"] for kept in store.surroundings(run.run_id).inbox] == [2, 3, 4]


def test_answers_survive_further_attempts_and_go_with_the_item(run: DrivenRun) -> None:
    work = run.claim("begin")
    run.commit(work, waiting(work))
    run.send(event("Answer"))
    run.commit(run.claim("begin"), failed(0))

    again = run.claim("begin")
    assert again.answers == {"w": event("Answer")}
    assert again.attempt == 2
    run.commit(again, Returned(None))
    assert run.content("events") is None
    assert run.content("waiters") is None


# -- collect_events ----------------------------------------------------------------------------------------------------

EXPECTED = [("A", 2, "buffer:b|A"), ("B", 1, "buffer:b|B")]


class Collecting:
    """Calls of collect_events from many work items of one run."""

    def __init__(self, store: Store) -> None:
        self.run = DrivenRun(store, plan_of(step("gather", "A", "B", num_workers=50))).start(event("A", i=0))
        self.works: list[Work] = []

    def work(self, what: Envelope) -> Work:
        self.run.send(what)
        return self.run.claim("gather")

    def collect(self, work: Work, n: int = 1) -> list[int] | Refusal | None:
        found = self.run.store.collect(
            work,
            buffer="gather|b",
            call=f"b|{work.work_id}|{n}",
            event=work.bound[0],
            expected=EXPECTED,
            taken=f"taken:{work.work_id}|b|{n}",
        )
        return found if found is None or isinstance(found, Refusal) else [e.value()["i"] for e in found]


@pytest.fixture
def collecting(store: Store) -> Collecting:
    return Collecting(store)


def test_the_call_that_completes_a_set_gets_it_ordered_as_expected(collecting: Collecting) -> None:
    first = collecting.run.claim("gather")
    assert collecting.collect(first) is None
    assert collecting.collect(collecting.work(event("B", i=1))) is None
    assert collecting.collect(collecting.work(event("A", i=2))) == [0, 2, 1]


def test_surplus_events_stay_for_the_next_set(collecting: Collecting) -> None:
    answers = [collecting.collect(collecting.run.claim("gather"))]
    for i, name in enumerate(["A", "A", "A", "B", "B"], 1):
        answers.append(collecting.collect(collecting.work(event(name, i=i))))

    assert answers == [None, None, None, None, [0, 1, 4], [2, 3, 5]]


def test_a_repeated_call_gives_its_first_answer_and_adds_nothing(collecting: Collecting, store: Store) -> None:
    works = [collecting.run.claim("gather"), *(collecting.work(event(n, i=i)) for i, n in ((1, "B"), (2, "A")))]
    answers = [collecting.collect(work) for work in works]
    before = dump(store.client, store.settings.key_prefix)

    assert [collecting.collect(work) for work in works] == answers == [None, None, [0, 2, 1]]
    assert dump(store.client, store.settings.key_prefix) == before


def test_a_completed_set_survives_the_attempt_that_completed_it(collecting: Collecting) -> None:
    run = collecting.run
    for work in (run.claim("gather"), collecting.work(event("B", i=1))):
        collecting.collect(work)
        run.commit(work, Returned(None))
    last = collecting.work(event("A", i=2))
    collecting.collect(last)
    run.commit(last, failed(0))

    again = run.claim("gather")
    assert again.taken == (f"taken:{last.work_id}|b|1",)
    assert collecting.collect(again) == [0, 2, 1]
    run.commit(again, Returned(None))
    for name in ("collect", "extra", "work", "events", again.taken[0]):
        assert run.content(name) is None, name


def test_an_unexpected_type_is_not_collected(collecting: Collecting) -> None:
    work = collecting.run.claim("gather")
    found = collecting.run.store.collect(
        work, buffer="s|b", call="c", event=event("X"), expected=EXPECTED, taken="taken:t"
    )

    assert found is None
    assert collecting.run.content("collect") is None


def test_collecting_under_an_old_token_or_in_an_ended_run_is_refused(collecting: Collecting, store: Store) -> None:
    work = collecting.run.claim("gather")
    collecting.run.commit(work, failed(0))
    assert collecting.collect(work) is Refusal.STALE
    store.finish(collecting.run.run_id, "cancelled", event("x"))
    assert collecting.collect(work) is Refusal.CLOSED
