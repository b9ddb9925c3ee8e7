"""The detail view of one run."""

from __future__ import annotations

import pytest

import umbel
from support.console.flows import Booking, Decision, Payment, Traveller, Trip
from support.eventually import eventually
from umbel.errors import NotRetried
from umbel.orchestration.inspection import run_detail
from umbel.orchestration.inspection.run_detail import LiveStep, RunDetail, read_detail
from umbel.tasks.client.runtime import Runtime


@pytest.fixture(autouse=True)
def open_gates(gates: set[str]) -> None:
    """Open all gates before every test."""


def trip() -> Trip:
    return Trip(city="Oslo", traveller=Traveller(name="Ada"))


def detail_when(deployment: Runtime, run_id: str, state: str, step: str, count: int = 1) -> RunDetail:
    """Return the run once this many work items of a step are in this state.

    A page is assembled from several reads: suspended work must be in all of them, with the question it asked.
    """

    def reached() -> RunDetail | None:
        found = deployment.portal.call(read_detail(deployment.store, run_id))
        is_reached = getattr(found.steps.get(step, LiveStep()), state) == count
        if state == "waiting":
            is_reached &= found.record.live == found.asleep == count == len(found.questions)
        return found if is_reached else None

    return eventually(reached, f"{count} {state} of {step}")  # type: ignore[no-any-return]


def test_it_shows_what_steps_do_and_how_many_wait_for_a_slot(deployment: Runtime, gates: set[str]) -> None:
    gates |= {"check Aurora", "check Bristol"}
    handler = Booking(timeout=None).start(start_event=trip())
    found = detail_when(deployment, handler.run_id, "running", "check", 2)
    assert found.steps == {"check": LiveStep(running=2, queued=1)}
    assert [each.step for each in found.at_work] == ["check", "check"]
    gates.clear()
    handler.cancel()


def test_it_shows_which_step_waits_and_what_was_asked(deployment: Runtime) -> None:
    handler = Booking(timeout=None).start(start_event=trip())
    found = detail_when(deployment, handler.run_id, "waiting", "ask")
    (question,) = found.questions
    assert question.waiter.step == "ask"
    assert question.waiter.event_type == "support.console.flows.Decision"
    assert question.asked is not None
    assert question.asked.value() == {"text": "Book Aurora?"}
    assert found.began_with is not None
    assert found.began_with.value()["city"] == "Oslo"
    assert found.record.live == found.asleep == 1
    handler.send_event(Decision(approved=True, by="Ada"))
    assert handler.result(20)["hotel"] == "Aurora"
    eventually(
        lambda: deployment.portal.call(read_detail(deployment.store, handler.run_id)).questions == (),
        "nothing is asked any more",
    )


def test_without_a_full_journal_the_only_question_of_a_step_is_found_in_the_stream(
    deployment: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Booking(timeout=None).start(start_event=trip())
    detail_when(deployment, handler.run_id, "waiting", "ask")
    monkeypatch.setattr(run_detail, "JOURNAL_ENTRIES", 0)
    found = deployment.portal.call(read_detail(deployment.store, handler.run_id))
    assert found.journal == ()
    assert found.journal_left_out > 0
    assert found.questions[0].asked is not None
    assert found.began_with is not None
    handler.cancel()


def test_what_is_too_much_to_be_shown_is_left_out_with_a_note(
    deployment: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Booking(timeout=None).start(start_event=trip())
    detail_when(deployment, handler.run_id, "waiting", "ask")
    monkeypatch.setattr(run_detail, "STATE_VALUE_BYTES", 10)
    found = deployment.portal.call(read_detail(deployment.store, handler.run_id))
    assert [(each.key, each.json) for each in found.state] == [("asked", None), ("city", b'"Oslo"')]
    monkeypatch.setattr(run_detail, "STATE_KEYS", 1)
    found = deployment.portal.call(read_detail(deployment.store, handler.run_id))
    assert [each.key for each in found.state] == ["asked"]
    assert found.state_left_out == 1
    handler.cancel()


def test_a_failed_run_keeps_the_work_it_failed_on(deployment: Runtime, gates: set[str]) -> None:
    gates.add("bank")
    handler = Payment().start(euros=3)
    with pytest.raises(RuntimeError, match="closed"):
        handler.result(20)
    found = detail_when(deployment, handler.run_id, "failed", "charge")
    assert found.steps == {"charge": LiveStep(failed=1)}
    assert found.record.status == "failed"


def test_a_failed_run_is_resumed_once(deployment: Runtime, gates: set[str]) -> None:
    gates.add("bank")
    handler = Payment().start(euros=3)
    with pytest.raises(RuntimeError, match="closed"):
        handler.result(20)
    gates.clear()
    deployment.portal.call(deployment.engine.retry(handler.run_id))
    assert umbel.attach(handler.run_id).result(20) == "paid 3"
    with pytest.raises(NotRetried, match="has completed"):
        deployment.portal.call(deployment.engine.retry(handler.run_id))
