"""Properties of every plan and outcome: decisions are reproducible and complete, and staging loses nothing."""

from __future__ import annotations

from collections import Counter
from itertools import cycle, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from support.store.driving import LIMITS, event, failed, plan_of, step, work_on
from umbel.orchestration.model.commands import (
    Absorb,
    Command,
    Deliver,
    Done,
    Fail,
    Finish,
    Join,
    KeepEvent,
    Resume,
    Retry,
    Splice,
    Suspend,
)
from umbel.orchestration.model.decide import CHUNK, Decision, decide, route
from umbel.orchestration.model.envelope import INPUT_REQUIRED, START, STEP_FAILED, STOP, Envelope
from umbel.orchestration.model.plan import Plan, StepPlan
from umbel.orchestration.model.waiters import InboxEvent, Surroundings, Waiter
from umbel.orchestration.model.work_item import FannedOut, Origin, Outcome, Returned, Scope, Suspended, Work, derive_id

TYPES = ("A", "B", "C", "D", "E")

#: The same examples in every run: a failure here is always reproducible.
same_examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def envelopes() -> st.SearchStrategy[Envelope]:
    parents = st.sampled_from([(), (), ("A",), ("B", "A"), (INPUT_REQUIRED,)])
    return st.builds(
        lambda name, above, k: event(name, *above, k=k), st.sampled_from(TYPES), parents, st.integers(1, 3)
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    accepted = st.lists(st.sampled_from(TYPES), min_size=1, max_size=3)
    collectors = [
        step(f"collect{i}", *draw(accepted), kind="collect", take=draw(st.sampled_from([None, 1, 3])))
        for i in range(draw(st.integers(0, 3)))
    ]
    names = [collector.name for collector in collectors]
    joins = st.lists(st.sampled_from(names), unique=True).map(tuple) if names else st.just(())

    def opener(i: int) -> StepPlan:
        kind = draw(st.sampled_from(["each", "each", "all_of"]))
        children = draw(st.booleans())
        return step(f"step{i}", *draw(accepted), kind=kind, collected_by=draw(joins), accepts_subclasses=children)

    openers = [opener(i) for i in range(draw(st.integers(1, 4)))]
    rescue = [step("rescue", STEP_FAILED, recovers=("*",))] if draw(st.booleans()) else []
    return plan_of(step("begin", START, collected_by=draw(joins)), *openers, *collectors, *rescue)


@st.composite
def works(draw: st.DrawFn, plan: Plan) -> Work:
    names = [each.name for each in plan.steps]
    path = [f"s{i}:{name}" for i, name in enumerate(draw(st.lists(st.sampled_from(names), max_size=3)))]
    recoveries = draw(st.dictionaries(st.sampled_from(["rescue"]), st.integers(0, 2)))
    return work_on(draw(st.sampled_from(names)), scope="/".join(path), recoveries=recoveries)


@st.composite
def surroundings(draw: st.DrawFn, plan: Plan) -> Surroundings:
    names = [each.name for each in plan.steps]
    waiters = [
        Waiter("sleeper", f"w{i}", draw(st.sampled_from(names)), draw(st.sampled_from(TYPES)), draw(requirements))
        for i in range(draw(st.integers(0, 3)))
    ]
    inbox = [InboxEvent(f"i{i}", draw(envelopes())) for i in range(draw(st.integers(0, 3)))]
    return Surroundings(draw(st.integers(0, 9)), tuple(waiters), tuple(inbox))


requirements = st.one_of(st.just({}), st.builds(lambda k: {"k": k}, st.integers(1, 3)))


@st.composite
def fan_outs(draw: st.DrawFn) -> FannedOut:
    pattern = draw(st.lists(envelopes(), min_size=1, max_size=4))
    size = draw(st.one_of(st.integers(0, 6), st.integers(CHUNK - 1, CHUNK + 40)))
    return FannedOut(tuple(islice(cycle(pattern), size)))


def outcomes() -> st.SearchStrategy[Outcome]:
    waiter = st.builds(
        lambda name, need: Waiter("item", "w", "begin", name, need), st.sampled_from(TYPES), requirements
    )
    return st.one_of(
        st.just(Returned(None)),
        envelopes().map(Returned),
        st.just(Returned(event(STOP))),
        fan_outs(),
        st.builds(failed, st.sampled_from([None, 0, 0.5])),
        st.builds(Suspended, waiter, st.none() | envelopes(), st.none() | st.floats(-1, 10)),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Plan, Work, Outcome, Surroundings]:
    plan = draw(plans())
    return plan, draw(works(plan)), draw(outcomes()), draw(surroundings(plan))


def delivered_ids(decision: Decision) -> list[str]:
    staged = [item.deliver for items in decision.staged.values() for item in items if item.deliver is not None]
    return [c.work_id for c in (*decision.commands, *staged) if isinstance(c, Deliver)]


@same_examples
@given(situations())
def test_equal_inputs_give_equal_decisions(situation: tuple[Plan, Work, Outcome, Surroundings]) -> None:
    plan, work, outcome, around = situation

    again = decide(Plan.from_json(plan.to_json()), work, outcome, around, LIMITS)

    assert decide(plan, work, outcome, around, LIMITS) == again


@same_examples
@given(situations())
def test_a_decision_settles_its_own_work_item_exactly_once(situation: tuple[Plan, Work, Outcome, Surroundings]) -> None:
    commands = decide(*situation, LIMITS).commands

    settled = [c for c in commands if isinstance(c, Done | Retry | Suspend | Fail)]
    finished = [c for c in commands if isinstance(c, Finish)]
    assert len(settled) + len(finished) == (2 if any(isinstance(c, Fail) for c in settled) else 1)


@same_examples
@given(situations())
def test_no_two_work_items_share_an_id(situation: tuple[Plan, Work, Outcome, Surroundings]) -> None:
    ids = delivered_ids(decide(*situation, LIMITS))

    assert len(ids) == len(set(ids))


@same_examples
@given(situations())
def test_two_work_items_never_emit_under_one_id(situation: tuple[Plan, Work, Outcome, Surroundings]) -> None:
    plan, work, outcome, around = situation
    other = work_on(work.step, scope=work.scope.path, work_id="other")

    ids = {*delivered_ids(decide(plan, work, outcome, around, LIMITS))}

    assert ids.isdisjoint(delivered_ids(decide(plan, other, outcome, around, LIMITS)))


@same_examples
@given(situations())
def test_an_event_is_kept_for_exactly_as_many_as_refer_to_it(
    situation: tuple[Plan, Work, Outcome, Surroundings],
) -> None:
    decision = decide(*situation, LIMITS)
    kept = {c.event_id: c.uses for c in decision.commands if isinstance(c, KeepEvent)}
    used = Counter(
        c.event_id for c in decision.commands if isinstance(c, Deliver | Join | Resume) and c.event_id is not None
    )
    for items in decision.staged.values():
        for item in items:
            if item.deliver is not None:
                kept[item.event_id] = item.uses
                used[item.event_id] += 1

    assert kept == dict(used)


def essence(command: Command) -> object:
    """Return the effect of a routed command, without its place."""
    match command:
        case Deliver(work_id=work_id):
            return ("deliver", work_id, command.event_id, command.scope)
        case Absorb(scope_id=scope_id, step=name, event=what):
            return ("absorb", scope_id, name, what)
    return command


@same_examples
@given(situations(), fan_outs())
def test_staging_loses_and_reorders_nothing(
    situation: tuple[Plan, Work, Outcome, Surroundings], outcome: FannedOut
) -> None:
    plan, work, _, around = situation
    decision = decide(plan, work, outcome, around, LIMITS)
    inside = work.scope.enter(derive_id(work.run_id, work.work_id, "scope"), work.step)
    expected: list[Command] = []
    left = around
    for index, each in enumerate(outcome.events):
        origin = Origin(work.run_id, work.work_id, inside, work.recoveries)
        expected += route(plan, each, origin, derive_id(work.work_id, "returned", index), left, LIMITS)
        left = left.after(each)
    wanted = Counter(essence(c) for c in expected if not isinstance(c, KeepEvent))

    found = Counter(essence(c) for c in decision.commands if essence(c) in wanted)
    for name, items in decision.staged.items():
        first = 1 if items[0].deliver is not None else 0
        assert [item.index for item in items] == list(range(first, first + len(items)))
        for item in items:
            if item.deliver is not None:
                found[essence(item.deliver)] += 1
            else:
                found["absorb", decision.scope_id, name, item.event] += 1

    assert found == wanted
    splices = {c.step.name: (c.size, c.scope) for c in decision.commands if isinstance(c, Splice)}
    assert splices == {n: (len(i), inside.path) for n, i in decision.staged.items() if i[0].deliver is not None}


@same_examples
@given(situations())
def test_every_command_has_a_wire_form(situation: tuple[Plan, Work, Outcome, Surroundings]) -> None:
    for command in decide(*situation, LIMITS).commands:
        wire = command.wire()
        assert isinstance(wire["o"], str)
        assert None not in wire.values()


@same_examples
@given(st.lists(st.sampled_from(["a", "b"]), max_size=4))
def test_the_levels_of_a_scope_are_its_entrances_innermost_first(openers: list[str]) -> None:
    scope = Scope()
    for index, opener in enumerate(openers):
        scope = scope.enter(f"s{index}", opener)

    assert [(i, o) for i, o, _ in scope.levels()] == [(f"s{i}", o) for i, o in enumerate(openers)][::-1]
    assert all(path == scope.path for _, _, path in scope.levels()[:1])
