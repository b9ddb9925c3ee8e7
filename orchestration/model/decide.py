"""Decide what follows from an outcome. Pure: plan + work item + outcome -> commands; no I/O, clock or randomness.

Reading order of one event: `decide_start` (run) -> `route` -> … a step executes … -> `decide` -> `route` -> … -> a
`StopEvent` becomes `Finish`. Redis applies the commands of one decision atomically.

Rules implemented here (the contract is LlamaIndex Workflows', see docs/how-an-event-travels.md):

* an event goes to every step that accepts its exact class, as one work item each;
* an event inside a fan-out that a `collect` step accepts is collected by the innermost fan-out that feeds this step;
* a `StopEvent` ends the run, an `InputRequiredEvent` is published as well as routed;
* an event that answers a waiter goes to the waiting step only as that answer;
* an event that no step accepts is reported as unhandled and kept in the inbox for a later waiter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from . import envelope as names
from .commands import (
    Absorb,
    AwaitChildren,
    Command,
    Deliver,
    Done,
    Fail,
    Finish,
    Join,
    KeepEvent,
    KeepInInbox,
    KeepPlan,
    OpenScope,
    Publish,
    Resume,
    Retry,
    Spawn,
    Splice,
    Suspend,
    TakeFromInbox,
    Trace,
)
from .envelope import Envelope
from .plan import Plan, StepPlan
from .waiters import Surroundings
from .work_item import (
    Awaiting,
    Failed,
    FannedOut,
    Grouped,
    Origin,
    Outcome,
    Returned,
    Scope,
    Suspended,
    Work,
    derive_id,
)

#: Fan-outs above this many events are staged in chunks of this size, which keeps every script under 5 ms.
CHUNK = 250


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decision needs to know about the deployment."""

    queue: str = "umbel"
    inbox_max_events: int = 1_000


@dataclass(frozen=True, slots=True)
class Staged:
    """One event of a large fan-out, stored in Redis ahead of the commit.

    Exactly one of `deliver` (position `index` of the segment of its step) and `member_of` (position `index` in the list
    of this logical name) is set.

    Attributes:
        more: With `deliver`: all events of its work item, including `event`, if it has several.
    """

    index: int
    event_id: str
    event: Envelope
    uses: int = 1
    deliver: Deliver | None = None
    member_of: str | None = None
    more: tuple[Envelope, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        commands: Applied by the commit, in order.
        staged: What must be staged before the commit, by step name or list.
        scope_id: The fan-out that `staged` belongs to, if it belongs to one.
        sensitive: It depends on the waiters; the commit must check that none was added.
        found_nothing: It found no matching event in the inbox; the commit must check that none was added there.
        opens: Fan-outs opened, as (scope id, opener step).
        packed: The commands in wire form, if they were prepared; `commands` is then empty.
    """

    commands: list[Command] = field(default_factory=list)
    staged: dict[str, list[Staged]] = field(default_factory=dict)
    scope_id: str | None = None
    sensitive: bool = False
    opens: tuple[tuple[str, str], ...] = ()
    found_nothing: bool = False
    packed: bytes | None = None


def route(
    plan: Plan,
    event: Envelope,
    origin: Origin,
    emit_id: str,
    surroundings: Surroundings,
    limits: Limits,
    *,
    target: str | None = None,
) -> list[Command]:
    """Where one event goes.

    Args:
        plan: The run's plan.
        event: The emitted event.
        origin: The emitter and its fan-out.
        emit_id: The event's identity; equal identities give equal work ids.
        surroundings: Waiters that the event may answer.
        limits: Deployment limits.
        target: The only step to deliver to, if the sender named one.
    """
    commands: list[Command] = []
    if event.is_a(names.INPUT_REQUIRED):
        commands.append(Publish(event))
    answered = [waiter for waiter in surroundings.waiters if waiter.matches(event)]
    resumed_steps = {waiter.step for waiter in answered}
    uses: list[Command] = [Resume(waiter.work_id, waiter.waiter_id, emit_id, event.type) for waiter in answered]
    gathered: list[Command] = []
    unhandled_by: str | None = None
    for step in plan.accepting(event):
        if step.name in resumed_steps or (target is not None and step.name != target):
            continue
        if step.kind == "each":
            uses.append(_deliver(step, event, origin, emit_id, limits))
        elif step.kind == "all_of":
            uses.append(_fill_slot(step, event, origin, emit_id, limits))
        else:
            level = _gathering_scope(plan, step, origin.scope)
            if level is None:
                unhandled_by = step.name
            else:
                gathered.append(Absorb(level, step.name, event))
    if uses:
        commands.append(KeepEvent(emit_id, event, len(uses), len(uses) == 1 and isinstance(uses[0], Deliver)))
        commands.extend(uses)
    commands.extend(gathered)
    if not uses and not gathered and not event.is_a(names.INPUT_REQUIRED):
        commands.append(Trace(unhandled_by or target or "", "unhandled", "", event.type))
        commands.append(KeepInInbox(emit_id, event, limits.inbox_max_events))
    return commands


def _deliver(step: StepPlan, event: Envelope, origin: Origin, emit_id: str, limits: Limits) -> Deliver:
    return Deliver(
        work_id=derive_id(origin.run_id, origin.work_id, emit_id, step.name),
        step=step,
        queue=limits.queue,
        event_id=emit_id,
        event_name=event.type,
        scope=origin.scope.path,
        recoveries=origin.packed_recoveries(),
    )


def _fill_slot(step: StepPlan, event: Envelope, origin: Origin, emit_id: str, limits: Limits) -> Join:
    slot = step.slot_of(event)
    assert slot is not None  # accepts_event has checked this
    key = step.join_key(event)
    return Join(
        work_stem=derive_id(origin.run_id, "join", step.name, origin.scope.path + key),
        step=step,
        queue=limits.queue,
        slot=slot,
        event_id=emit_id,
        event_name=event.type,
        scope=origin.scope.path,
        recoveries=origin.packed_recoveries(),
        key=key,
    )


def _gathering_scope(plan: Plan, step: StepPlan, scope: Scope) -> str | None:
    """The innermost fan-out around the emitter that feeds this collect step."""
    for scope_id, opener, _ in scope.levels():
        if step.name in plan.by_name[opener].collected_by:
            return scope_id
    return None


def decide_start(plan: Plan, run_id: str, event: Envelope, limits: Limits) -> list[Command]:
    """The first commands of a run: its start event to every step that accepts it."""
    return route(plan, event, Origin(run_id, "start"), derive_id(run_id, "start"), Surroundings(), limits)


def routed_events(outcome: Outcome) -> Sequence[Envelope]:
    """The events of an outcome that are routed to steps and waiters, so that the waiters matter."""
    match outcome:
        case Returned(event, ends):
            events = () if event is None else (event,)
            if not ends:
                return events
        case FannedOut(events):
            pass
        case _:
            return ()
    return () if any(event.is_a(names.STOP) for event in events) else events


def decide(plan: Plan, work: Work, outcome: Outcome, surroundings: Surroundings, limits: Limits) -> Decision:
    """What follows from one executed attempt."""
    match outcome:
        case Returned():
            return _decide_returned(plan, work, outcome, surroundings, limits)
        case FannedOut(events):
            return _decide_fan_out(plan, work, events, surroundings, limits)
        case Failed():
            return _decide_failed(plan, work, outcome, limits)
        case Suspended():
            return _decide_suspended(work, outcome, surroundings)
        case Grouped():
            return _decide_grouped(plan, work, outcome, limits)
        case Awaiting():
            return _decide_awaiting(work, outcome)


def _stopped(work: Work, output: str = "") -> Trace:
    return Trace(work.step, "not_running", str(work.slot), work.event_name, output)


def _decide_returned(plan: Plan, work: Work, outcome: Returned, surroundings: Surroundings, limits: Limits) -> Decision:
    event = outcome.event
    if event is None:
        return Decision([_stopped(work), Done()])
    if outcome.ends and event.is_a(names.STOP):
        return Decision([_stopped(work, event.type), Finish("completed", event)])
    emit_id = derive_id(work.work_id, "returned", 0)
    routed = route(plan, event, work.origin, emit_id, surroundings, limits)
    return Decision([_stopped(work, event.type), *routed, Done()], sensitive=True)


def _decide_fan_out(
    plan: Plan, work: Work, events: tuple[Envelope, ...], surroundings: Surroundings, limits: Limits
) -> Decision:
    step = plan.by_name[work.step]
    stop = next((event for event in events if event.is_a(names.STOP)), None)
    if stop is not None:
        return Decision([_stopped(work, stop.type), Finish("completed", stop)])
    scope_id = derive_id(work.ids_of, work.work_id, "scope")
    inside = Origin(work.ids_of, work.work_id, work.scope.enter(scope_id, step.name), work.recoveries)
    joins = tuple((derive_id(work.ids_of, scope_id, name), plan.by_name[name]) for name in step.collected_by)
    opening = OpenScope(scope_id, work.scope.path, joins, limits.queue, work.origin.packed_recoveries())
    commands: list[Command] = [_stopped(work, events[0].type if events else ""), opening]
    staged: dict[str, list[Staged]] = {}
    for index, event in enumerate(events):
        routed = route(plan, event, inside, derive_id(work.work_id, "returned", index), surroundings, limits)
        surroundings = surroundings.after(event)
        if len(events) <= CHUNK or not _stageable(routed):
            commands.extend(routed)
        else:
            _stage(routed, scope_id, staged)
    commands.extend(
        Splice(plan.by_name[name], f"{work.token}:{name}", len(items), inside.scope.path)
        for name, items in staged.items()
        if items[0].deliver is not None
    )
    commands.append(Done())
    return Decision(commands, staged, scope_id, sensitive=True, opens=((scope_id, step.name),))


def _stageable(routed: list[Command]) -> bool:
    return all(isinstance(command, KeepEvent | Deliver | Absorb) for command in routed)


def _stage(routed: list[Command], scope_id: str, staged: dict[str, list[Staged]]) -> None:
    stored = next((command for command in routed if isinstance(command, KeepEvent)), None)
    for command in routed:
        if isinstance(command, Deliver):
            assert stored is not None
            items = staged.setdefault(command.step.name, [])
            items.append(Staged(len(items) + 1, stored.event_id, stored.event, stored.uses, deliver=command))
        elif isinstance(command, Absorb):
            items = staged.setdefault(command.step, [])
            items.append(Staged(len(items), "", command.event, member_of=f"members:{scope_id}:{command.step}"))


def recovering(plan: Plan, work: Work) -> StepPlan | None:
    """The `@catch_error` step that handles a final failure of this work; None if there is none."""
    handler = plan.handler_of(work.step)
    if handler is None or work.recoveries.get(handler.name, 0) >= handler.max_recoveries:
        return None
    return handler


def _decide_failed(plan: Plan, work: Work, outcome: Failed, limits: Limits) -> Decision:
    if outcome.retry_delay_seconds is not None:
        delay = max(0, round(outcome.retry_delay_seconds * 1000))
        return Decision([_stopped(work), Retry(delay, outcome.error)])
    handler = recovering(plan, work)
    event = outcome.failed_event
    if handler is not None and event is not None:
        recoveries = work.recoveries | {handler.name: work.recoveries.get(handler.name, 0) + 1}
        origin = Origin(work.ids_of, work.work_id, work.scope, recoveries)
        emit_id = derive_id(work.work_id, "failed")
        delivery = _deliver(handler, event, origin, emit_id, limits)
        return Decision([_stopped(work), KeepEvent(emit_id, event, 1, True), delivery, Done()])
    return Decision([_stopped(work), Fail(outcome.error), Finish("failed", outcome.ending)])


def _decide_suspended(work: Work, outcome: Suspended, surroundings: Surroundings) -> Decision:
    waiter = outcome.waiter
    commands: list[Command] = [_stopped(work)]
    if outcome.announce is not None:
        commands.append(Publish(outcome.announce, work.step, work.attempt))
    timeout = None if outcome.timeout_seconds is None else max(0, round(outcome.timeout_seconds * 1000))
    commands.append(Suspend(waiter.waiter_id, waiter.to_bytes(), timeout))
    early = next((kept for kept in surroundings.inbox if waiter.matches(kept.event)), None)
    if early is not None:
        commands.append(TakeFromInbox(early.event_id))
        commands.append(KeepEvent(early.event_id, early.event, 1))
        commands.append(Resume(work.work_id, waiter.waiter_id, early.event_id, early.event.type))
    return Decision(commands, found_nothing=early is None)


def _decide_awaiting(work: Work, outcome: Awaiting) -> Decision:
    children, at_once = outcome.children, outcome.at_once or len(outcome.children)
    plans = {child.plan_digest: child.plan for child in children}
    return Decision(
        [
            _stopped(work),
            *(KeepPlan(digest, plan) for digest, plan in plans.items()),
            *(Spawn(child) for child in children[:at_once]),
            *(Spawn(child, number) for number, child in enumerate(children[at_once:], 1)),
            AwaitChildren(tuple(child.child_id for child in children)),
        ]
    )


def _decide_grouped(plan: Plan, work: Work, outcome: Grouped, limits: Limits) -> Decision:
    if sum(len(events) for _, events in outcome.groups) > CHUNK:
        return _stage_groups(plan, work, outcome, limits)
    commands: list[Command] = [_stopped(work)]
    for key, events in outcome.groups:
        ids = tuple(derive_id(work.work_id, key, number) for number in range(len(events)))
        commands.extend(KeepEvent(event_id, event, 1) for event_id, event in zip(ids, events, strict=True))
        commands.append(
            Deliver(
                work_id=derive_id(work.ids_of, work.work_id, "group", key),
                step=plan.by_name[work.step],
                queue=limits.queue,
                event_id="",
                event_name=work.event_name,
                scope=work.scope.path,
                recoveries=work.origin.packed_recoveries(),
                event_ids=ids,
            )
        )
    return Decision([*commands, Done()])


def _stage_groups(plan: Plan, work: Work, outcome: Grouped, limits: Limits) -> Decision:
    """Stage groups that are too large for one script. A group that is large itself becomes a list, as in a fan-in."""
    step = plan.by_name[work.step]
    delivers: list[Staged] = []
    staged: dict[str, list[Staged]] = {}
    for key, events in outcome.groups:
        work_id = derive_id(work.ids_of, work.work_id, "group", key)
        ids = tuple(derive_id(work.work_id, key, number) for number in range(len(events)))
        if is_list := len(events) > CHUNK:
            name = f"members:{work_id}:{step.name}"
            staged[name] = [Staged(at, "", event, member_of=name) for at, event in enumerate(events)]
        deliver = Deliver(
            work_id=work_id,
            step=step,
            queue=limits.queue,
            event_id=ids[0],
            event_name=work.event_name,
            scope=work.scope.path,
            recoveries=work.origin.packed_recoveries(),
            event_ids=() if is_list else ids,
            members=len(events) if is_list else None,
        )
        delivers.append(Staged(len(delivers) + 1, ids[0], events[0], deliver=deliver, more=() if is_list else events))
    staged[step.name] = delivers
    splice = Splice(step, f"{work.token}:{step.name}", len(delivers), work.scope.path)
    return Decision([_stopped(work), splice, Done()], staged)
