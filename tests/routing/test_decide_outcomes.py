"""What follows from each outcome of a step. Pure; no Redis."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from support.model.brief import brief
from support.store.driving import LIMITS, NOTHING, event, failed, plan_of, step, stop, work_on
from umbel.orchestration.model.commands import Deliver, Finish, OpenScope, Publish, Resume, Retry, Splice, Suspend
from umbel.orchestration.model.decide import CHUNK, Decision, decide
from umbel.orchestration.model.envelope import INPUT_REQUIRED, START, STEP_FAILED, STOP
from umbel.orchestration.model.plan import StepPlan
from umbel.orchestration.model.waiters import InboxEvent, Surroundings, Waiter
from umbel.orchestration.model.work_item import FannedOut, Grouped, Outcome, Returned, Suspended, Work, derive_id

PLAN = plan_of(
    step("begin", START, collected_by=("all", "first")),
    step("work", "A"),
    step("also", "A"),
    step("pair", "L", "R", kind="all_of"),
    step("all", "M", kind="collect"),
    step("first", "M", kind="collect", take=2),
)


def decided(outcome: Outcome, work: Work | None = None, around: Surroundings = NOTHING) -> Decision:
    return decide(PLAN, work or work_on("begin"), outcome, around, LIMITS)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(Returned(None), ["not_running", "done"], id="a dead branch"),
        pytest.param(stop(1), ["not_running", "finish completed"], id="a StopEvent"),
        pytest.param(Returned(event("Own", STOP)), ["not_running", "finish completed"], id="a child of StopEvent"),
        pytest.param(Returned(event("L")), ["not_running", "keep for 1", "join pair.L", "done"], id="a join's slot"),
        pytest.param(Returned(event("X")), ["not_running", "unhandled", "inbox", "done"], id="unhandled"),
        pytest.param(Returned(event("Ask", INPUT_REQUIRED)), ["not_running", "publish Ask", "done"], id="a question"),
        pytest.param(
            Returned(event("A")), ["not_running", "keep for 2", "deliver work", "deliver also", "done"], id="an event"
        ),
        pytest.param(FannedOut(()), ["not_running", "open all first", "done"], id="an empty fan-out"),
        pytest.param(
            FannedOut((event("L"), stop().event or event("X"), event("R"))),
            ["not_running", "finish completed"],
            id="a StopEvent inside a list ends the run, its siblings are nowhere",
        ),
        pytest.param(
            FannedOut((event("L"), event("X"))),
            ["not_running", "open all first", "keep for 1", "join pair.L", "unhandled", "inbox", "done"],
            id="a mixed fan-out",
        ),
        pytest.param(failed(0.5), ["not_running", "retry 500"], id="a failure to be tried again"),
        pytest.param(failed(0), ["not_running", "retry 0"], id="... at once"),
        pytest.param(failed(), ["not_running", "fail", "finish failed"], id="a final failure"),
    ],
)
def test_an_outcome_becomes_these_commands(outcome: Outcome, expected: list[str]) -> None:
    assert brief(decided(outcome).commands) == expected


def test_a_fan_out_gathers_its_direct_members() -> None:
    scope_id = derive_id("run", "item", "scope")

    commands = decided(FannedOut((event("M"), event("M")))).commands

    assert brief(commands) == [
        "not_running",
        "open all first",
        *[f"absorb {scope_id}/all", f"absorb {scope_id}/first"] * 2,
        "done",
    ]


def test_a_fan_out_inside_another_remembers_its_parent() -> None:
    decision = decided(FannedOut((event("A"),)), work_on("begin", scope="s:begin"))
    opened = next(c for c in decision.commands if isinstance(c, OpenScope))
    inside = next(c for c in decision.commands if isinstance(c, Deliver))

    assert opened.parent == "s:begin"
    assert inside.scope == f"s:begin/{opened.scope_id}:begin"
    assert decision.opens == ((opened.scope_id, "begin"),)


def test_only_the_innermost_fan_out_that_feeds_the_step_gathers() -> None:
    commands = decided(Returned(event("M")), work_on("work", scope="s1:begin/s2:begin")).commands

    assert brief(commands) == ["not_running", "absorb s2/all", "absorb s2/first", "done"]


def test_one_answer_in_a_fan_out_is_enough_and_the_next_event_goes_its_own_way() -> None:
    around = Surroundings(1, (Waiter("sleeper", "w", "work", "A", {}),))

    commands = decided(FannedOut((event("A"), event("A"))), around=around).commands

    assert brief(commands) == [
        "not_running",
        "open all first",
        *["keep for 2", "resume w", "deliver also"],
        *["keep for 2", "deliver work", "deliver also"],
        "done",
    ]


@pytest.mark.parametrize("outcome", [Returned(event("A")), FannedOut((event("A"),)), FannedOut(())])
def test_what_depends_on_waiters_asks_the_commit_to_check_them(outcome: Outcome) -> None:
    assert decided(outcome).sensitive


@pytest.mark.parametrize("outcome", [Returned(None), stop(), failed(1), failed()])
def test_what_depends_on_no_waiter_commits_whatever_waits(outcome: Outcome) -> None:
    assert not decided(outcome).sensitive


# -- waiting -----------------------------------------------------------------------------------------------------------


def suspended(timeout_seconds: float | None = None, **requirements: object) -> Suspended:
    return Suspended(Waiter("item", "w", "begin", "Answer", requirements), None, timeout_seconds)


def test_a_waiting_step_is_suspended_with_its_condition() -> None:
    decision = decided(suspended(2.5, k=1))
    command = next(c for c in decision.commands if isinstance(c, Suspend))

    assert brief(decision.commands) == ["not_running", "suspend w"]
    assert decision.found_nothing
    assert not decision.sensitive
    assert command.timeout_ms == 2500
    assert Waiter.from_bytes("item|w", command.waiter) == suspended(k=1).waiter


@pytest.mark.parametrize(("seconds", "milliseconds"), [(None, None), (0, 0), (-1, 0), (0.0004, 0), (1, 1000)])
def test_a_waiters_time_limit_is_milliseconds_and_never_negative(seconds: float | None, milliseconds: int) -> None:
    command = next(c for c in decided(suspended(seconds)).commands if isinstance(c, Suspend))

    assert command.timeout_ms == milliseconds


def test_the_announcement_of_a_wait_is_published_with_step_and_attempt() -> None:
    outcome = Suspended(suspended().waiter, event("Ask", INPUT_REQUIRED), None)
    commands = decided(outcome, work_on("begin", failures=1, losses=1)).commands

    assert brief(commands) == ["not_running", "publish Ask", "suspend w"]
    assert Publish(event("Ask", INPUT_REQUIRED), "begin", 3) in commands


def test_an_answer_that_came_before_the_question_is_found_in_the_inbox() -> None:
    inbox = (
        InboxEvent("e1", event("Other")),
        InboxEvent("e2", event("Answer", k=2)),
        InboxEvent("e3", event("Answer", k=1)),
        InboxEvent("e4", event("Answer", k=1)),
    )
    commands = decided(suspended(k=1), around=Surroundings(4, (), inbox)).commands

    assert brief(commands) == ["not_running", "suspend w", "take e3", "keep for 1", "resume w"]
    assert Resume("item", "w", "e3", "Answer") in commands


# -- failing -----------------------------------------------------------------------------------------------------------

RESCUED = plan_of(
    step("begin", START),
    step("fragile", "A"),
    step("rescue", STEP_FAILED, recovers=("fragile",), num_workers=1),
    step("anything", STEP_FAILED, recovers=("*",), max_recoveries=2, num_workers=1),
)


@pytest.mark.parametrize(
    ("step_name", "recoveries", "handler"),
    [
        ("fragile", {}, "rescue"),
        ("fragile", {"anything": 2}, "rescue"),
        ("fragile", {"rescue": 1}, None),
        ("begin", {}, "anything"),
        ("begin", {"anything": 1}, "anything"),
        ("begin", {"anything": 2}, None),
        ("rescue", {}, None),
        ("anything", {}, None),
    ],
)
def test_a_final_failure_goes_to_its_handler_while_the_lineage_has_budget(
    step_name: str, recoveries: dict[str, int], handler: str | None
) -> None:
    decision = decide(RESCUED, work_on(step_name, recoveries=recoveries), failed(), NOTHING, LIMITS)

    if handler is None:
        assert brief(decision.commands) == ["not_running", "fail", "finish failed"]
    else:
        assert brief(decision.commands) == ["not_running", "keep for 1", f"deliver {handler}", "done"]


def test_what_a_handler_emits_carries_the_spent_budget() -> None:
    decision = decide(RESCUED, work_on("fragile", recoveries={"anything": 1}), failed(), NOTHING, LIMITS)
    delivered = next(c for c in decision.commands if isinstance(c, Deliver))

    assert delivered.recoveries == '{"anything":1,"rescue":1}'


def test_a_failure_inside_a_fan_out_is_handled_inside_it() -> None:
    decision = decide(RESCUED, work_on("fragile", scope="s:begin"), failed(), NOTHING, LIMITS)

    assert [c.scope for c in decision.commands if isinstance(c, Deliver)] == ["s:begin"]


def test_a_retry_comes_before_any_handler() -> None:
    decision = decide(RESCUED, work_on("fragile"), failed(1), NOTHING, LIMITS)

    assert [c for c in decision.commands if isinstance(c, Retry)] == [Retry(1000, failed(1).error)]


def test_a_run_that_fails_says_so_with_the_given_ending() -> None:
    finish = next(c for c in decided(failed(text="why")).commands if isinstance(c, Finish))

    assert (finish.status, finish.event.value()) == ("failed", {"message": "why"})


# -- large fan-outs ----------------------------------------------------------------------------------------------------


def test_a_fan_out_of_one_chunk_is_committed_directly() -> None:
    assert decided(FannedOut((event("A"),) * CHUNK)).staged == {}


def test_a_large_fan_out_is_staged_and_the_commit_only_splices() -> None:
    decision = decided(FannedOut((event("A"),) * (CHUNK + 1)))

    assert brief(decision.commands) == [
        "not_running",
        "open all first",
        f"splice work x{CHUNK + 1}",
        f"splice also x{CHUNK + 1}",
        "done",
    ]
    assert [item.index for item in decision.staged["work"]] == list(range(1, CHUNK + 2))
    assert {item.uses for item in decision.staged["work"]} == {2}


def test_staged_segments_are_named_after_the_token_so_attempts_never_mix() -> None:
    def segments(token: str) -> set[str]:
        decision = decided(FannedOut((event("A"),) * (CHUNK + 1)), work_on("begin", token=token))
        return {c.segment for c in decision.commands if isinstance(c, Splice)}

    assert segments("1-x") == {"1-x:work", "1-x:also"}
    assert not segments("1-x") & segments("2-y")


def test_large_direct_members_are_staged_in_order_for_each_join() -> None:
    decision = decided(FannedOut(tuple(event("M", i=i) for i in range(CHUNK + 1))))

    assert brief(decision.commands) == ["not_running", "open all first", "done"]
    for name in ("all", "first"):
        assert [item.index for item in decision.staged[name]] == list(range(CHUNK + 1))
        assert [item.event.value()["i"] for item in decision.staged[name]] == list(range(CHUNK + 1))
    assert decision.scope_id == derive_id("run", "item", "scope")


def test_what_cannot_be_staged_stays_in_the_commit() -> None:
    events = (event("X"), event("L"), *(event("A"),) * CHUNK)

    decision = decided(FannedOut(events))

    assert brief(decision.commands)[2:6] == ["unhandled", "inbox", "keep for 1", "join pair.L"]
    assert {name: len(items) for name, items in decision.staged.items()} == {"work": CHUNK, "also": CHUNK}


@pytest.mark.parametrize("opener", PLAN.steps, ids=lambda opener: opener.name)
def test_every_kind_of_step_may_fan_out(opener: StepPlan) -> None:
    decision = decided(FannedOut((event("A"),)), work_on(opener.name))

    assert brief(decision.commands)[-1] == "done"


@pytest.mark.parametrize("each", [1, CHUNK, CHUNK + 1])
def test_groups_have_the_same_ids_in_a_run_and_its_forks_whatever_their_size(each: int) -> None:
    groups = Grouped(tuple((key, (event("M"),) * each) for key in ("a", "b")))
    original = work_on("all")
    fork = replace(
        original,
        run_id="fork",
        options=json.dumps({"fork": {"run_id": original.run_id, "seq": 1, "ids": original.run_id}}),
    )

    of_original, of_fork = decided(groups, original), decided(groups, fork)

    assert _group_ids(of_original) == _group_ids(of_fork)
    assert len(set(_group_ids(of_original))) == 2


def _group_ids(decision: Decision) -> list[str]:
    staged = [each.deliver for each in decision.staged.get("all", ()) if each.deliver is not None]
    return [each.work_id for each in (*decision.commands, *staged) if isinstance(each, Deliver)]
