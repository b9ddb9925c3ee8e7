"""Where an event goes: the routing table. Pure; no Redis."""

from __future__ import annotations

import pytest

from support.model.brief import brief
from support.store.driving import LIMITS, NOTHING, event, plan_of, step
from umbel.orchestration.model.commands import Absorb, Deliver, Join, KeepInInbox, Resume, Trace
from umbel.orchestration.model.decide import decide_start, route
from umbel.orchestration.model.envelope import INPUT_REQUIRED, START, Envelope
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.model.waiters import Surroundings, Waiter
from umbel.orchestration.model.work_item import Origin, Scope

PLAN = plan_of(
    step("begin", START, collected_by=("outer",)),
    step("split", "A", collected_by=("inner",)),
    step("also", "A", "B"),
    step("family", "Parent", accepts_subclasses=True),
    step("pair", "L", "R", kind="all_of"),
    step("kin", "Parent", "L", kind="all_of", accepts_subclasses=True),
    step("inner", "M", kind="collect"),
    step("outer", "M", "N", kind="collect"),
)

WITHIN_BEGIN = "s1:begin"
WITHIN_BOTH = "s1:begin/s2:split"
WITHIN_ALSO = "s1:begin/s3:also"


def routed(what: Envelope, *, scope: str = "", around: Surroundings = NOTHING, **more: str) -> list[str]:
    return brief(route(PLAN, what, Origin("run", "item", Scope(scope)), "emit", around, LIMITS, **more))


@pytest.mark.parametrize(
    ("what", "scope", "expected"),
    [
        pytest.param(event("B"), "", ["keep for 1", "deliver also"], id="exact class"),
        pytest.param(event("A"), "", ["keep for 2", "deliver split", "deliver also"], id="broadcast"),
        pytest.param(event("Child", "A"), "", ["unhandled", "inbox"], id="a child of an accepted class is another"),
        pytest.param(event("Child", "Parent"), "", ["keep for 2", "deliver family", "join kin.Parent"], id="subclass"),
        pytest.param(event("Grand", "Child", "Parent"), "", ["keep for 2", "deliver family", "join kin.Parent"]),
        pytest.param(event("Parent"), "", ["keep for 2", "deliver family", "join kin.Parent"], id="the class itself"),
        pytest.param(event("L"), "", ["keep for 2", "join pair.L", "join kin.L"], id="two joins"),
        pytest.param(event("L", "Parent"), "", ["keep for 3", "join pair.L", "join kin.L", "deliver family"]),
        pytest.param(event("Unknown"), "", ["unhandled", "inbox"], id="nobody accepts it"),
        pytest.param(event("M"), "", ["unhandled", "inbox"], id="a member outside any fan-out"),
        pytest.param(event("M"), WITHIN_BEGIN, ["absorb s1/outer"], id="gathered by the fan-out that feeds the step"),
        pytest.param(event("M"), WITHIN_BOTH, ["absorb s2/inner", "absorb s1/outer"], id="each by its innermost"),
        pytest.param(event("N"), WITHIN_BOTH, ["absorb s1/outer"], id="past a fan-out that does not feed it"),
        pytest.param(event("M"), WITHIN_ALSO, ["absorb s1/outer"], id="an opener without joins gathers nothing"),
        pytest.param(event("B"), WITHIN_BOTH, ["keep for 1", "deliver also"], id="plain steps inside a fan-out"),
        pytest.param(event(INPUT_REQUIRED), "", [f"publish {INPUT_REQUIRED}"], id="input required: published only"),
        pytest.param(event("Ask", INPUT_REQUIRED), "", ["publish Ask"], id="a child of input required"),
        pytest.param(
            event("A", INPUT_REQUIRED),
            "",
            ["publish A", "keep for 2", "deliver split", "deliver also"],
            id="input required that a step accepts: published and routed",
        ),
    ],
)
def test_an_event_goes_where_the_table_says(what: Envelope, scope: str, expected: list[str]) -> None:
    assert sorted(routed(what, scope=scope)) == sorted(expected)


def test_the_event_is_kept_before_anything_refers_to_it() -> None:
    assert routed(event("L"))[0].startswith("keep")


def test_a_gathered_event_that_a_step_takes_too_goes_to_both() -> None:
    plan = plan_of(step("open", START, collected_by=("all",)), step("one", "M"), step("all", "M", kind="collect"))
    origin = Origin("run", "item", Scope("s:open"))

    assert brief(route(plan, event("M"), origin, "e", NOTHING, LIMITS)) == ["keep for 1", "deliver one", "absorb s/all"]


def test_a_named_target_is_the_only_receiver() -> None:
    assert routed(event("A"), target="also") == ["keep for 1", "deliver also"]


def test_a_named_target_outside_a_fan_out_cannot_gather_and_is_reported() -> None:
    commands = route(PLAN, event("M"), Origin("run", "item"), "emit", NOTHING, LIMITS, target="outer")

    assert brief(commands) == ["unhandled", "inbox"]
    assert isinstance(commands[0], Trace)
    assert commands[0].step == "outer"


def test_work_carries_its_origin_onwards() -> None:
    origin = Origin("run", "item", Scope(WITHIN_BOTH), {"rescue": 1})
    deliver = next(c for c in route(PLAN, event("B"), origin, "emit", NOTHING, LIMITS) if isinstance(c, Deliver))
    join = next(c for c in route(PLAN, event("R"), origin, "emit", NOTHING, LIMITS) if isinstance(c, Join))

    assert (deliver.scope, deliver.recoveries) == (WITHIN_BOTH, '{"rescue":1}')
    assert (join.scope, join.recoveries) == (WITHIN_BOTH, '{"rescue":1}')


def test_a_step_without_a_queue_gets_the_deployments() -> None:
    plan = plan_of(step("own", "A", queue="gpu", priority=7, timeout_seconds=1.5), step("none", "A"))
    commands = [c for c in route(plan, event("A"), Origin("r", "i"), "e", NOTHING, LIMITS) if isinstance(c, Deliver)]

    assert [(c.wire()["q"], c.wire().get("p"), c.wire().get("to")) for c in commands] == [
        ("gpu", 7, 1500),
        ("umbel", None, None),
    ]


# -- waiters -----------------------------------------------------------------------------------------------------------


def waiter(step_name: str = "split", *, of: str = "A", name: str = "w", **requirements: object) -> Waiter:
    return Waiter("sleeper", name, step_name, of, requirements)


def test_an_answer_resumes_the_waiting_step_and_is_not_delivered_to_it_as_well() -> None:
    around = Surroundings(3, (waiter(),))

    assert routed(event("A"), around=around) == ["keep for 2", "resume w", "deliver also"]


def test_an_answer_resumes_every_waiter_it_matches() -> None:
    around = Surroundings(3, (waiter(name="w1"), waiter("also", name="w2"), waiter("begin", of="B", name="w3")))

    assert routed(event("A"), around=around) == ["keep for 2", "resume w1", "resume w2"]


def test_an_answer_nobody_else_accepts_is_not_unhandled() -> None:
    assert routed(event("Answer"), around=Surroundings(1, (waiter(of="Answer"),))) == ["keep for 1", "resume w"]


def test_a_targeted_event_answers_waiters_all_the_same() -> None:
    around = Surroundings(1, (waiter(),))

    assert routed(event("A"), around=around, target="also") == ["keep for 2", "resume w", "deliver also"]


@pytest.mark.parametrize(
    ("requirements", "payload", "matches"),
    [
        ({}, {}, True),
        ({"k": 1}, {"k": 1}, True),
        ({"k": 1}, {"k": 2}, False),
        ({"k": 1}, {}, False),
        ({"k": None}, {}, False),
        ({"k": 1}, {"_data": {"k": 1}}, True),
        ({"k": 1}, {"_data": {"k": 2}}, False),
        ({"k": 1}, {"k": 1, "_data": {"k": 2}}, True),
        ({"k": 1, "m": "x"}, {"k": 1, "_data": {"m": "x"}}, True),
        ({"k": 1, "m": "x"}, {"k": 1, "_data": {"m": "y"}}, False),
        ({"k": [1, {"a": None}]}, {"k": [1, {"a": None}]}, True),
    ],
)
def test_requirements_look_at_declared_and_dynamic_fields(requirements: dict, payload: dict, matches: bool) -> None:
    assert waiter(**requirements).matches(event("A", **payload)) is matches


def test_a_waiter_matches_the_exact_class_unless_it_accepts_children() -> None:
    child = event("Child", "A")
    generous = Waiter("sleeper", "w", "split", "A", {}, subclasses=True)

    assert not waiter().matches(child)
    assert generous.matches(child)
    assert not generous.matches(event("B"))


def test_a_stored_waiter_is_read_back_as_it_was() -> None:
    original = Waiter("sleeper", "name|with|bars", "split", "A", {"k": [1, None]}, subclasses=True)

    assert Waiter.from_bytes("sleeper|name|with|bars", original.to_bytes()) == original


def test_an_event_answers_a_waiter_only_once() -> None:
    around = Surroundings(3, (waiter(of="A"), waiter(of="B", name="other")))

    left = around.after(event("A"))

    assert left == Surroundings(3, (waiter(of="B", name="other"),))


# -- the start ---------------------------------------------------------------------------------------------------------


def test_a_run_begins_with_its_start_event_at_every_step_that_accepts_it() -> None:
    plan = plan_of(step("one", START), step("two", START), step("later", "A"))

    assert brief(decide_start(plan, "run", event(START), LIMITS)) == ["keep for 2", "deliver one", "deliver two"]


def test_two_runs_never_share_an_id() -> None:
    def ids(run_id: str) -> set[str]:
        commands = decide_start(PLAN, run_id, event("A"), LIMITS)
        return {c.work_id for c in commands if isinstance(c, Deliver)}

    assert not ids("one") & ids("two")


def test_one_event_gives_each_receiver_an_id_of_its_own() -> None:
    commands = route(PLAN, event("A"), Origin("run", "item"), "emit", NOTHING, LIMITS)
    ids = [c.work_id for c in commands if isinstance(c, Deliver)]

    assert len(ids) == len(set(ids)) == 2


def test_a_plan_survives_its_json() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert Plan.from_json(PLAN.to_json()).digest == PLAN.digest


def test_the_inbox_bound_travels_with_the_command() -> None:
    kept = next(
        c for c in route(PLAN, event("X"), Origin("r", "i"), "e", NOTHING, LIMITS) if isinstance(c, KeepInInbox)
    )

    assert kept.limit == LIMITS.inbox_max_events
    assert kept.event_id == "e"


def test_members_and_answers_are_distinguished_by_scope_and_waiter() -> None:
    around = Surroundings(1, (waiter(of="M"),))
    commands = route(PLAN, event("M"), Origin("run", "item", Scope(WITHIN_BEGIN)), "emit", around, LIMITS)

    assert [c.waiter_id for c in commands if isinstance(c, Resume)] == ["w"]
    assert [c.step for c in commands if isinstance(c, Absorb)] == ["outer"]
