"""Forks with recorded outcomes have the same result as plain execution."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

import umbel
from support.flows.executions import EXECUTED, executed
from umbel import Collect, Context, Event, StartEvent, StopEvent, Workflow, step

pytestmark = pytest.mark.usefixtures("runtime")


@dataclass(frozen=True)
class Operation:
    """What one step of a plan does: the state keys it reads, the one it writes, and how often it publishes."""

    reads: tuple[str, ...]
    writes: str
    notes: int


#: Plan name -> the operations of each chain.
PLANS: dict[str, list[list[Operation]]] = {}
BEGINNING = {"a": 1, "b": 2}


class Go(StartEvent):
    plan: str


class Do(Event):
    plan: str
    part: int
    number: int
    value: int


class Over(Event):
    part: int
    value: int


class Note(Event):
    part: int
    number: int
    value: int


def result_of(operation: Operation, value: int, read: Iterable[int]) -> int:
    return (value * 3 + sum(read)) % 10_007


class Planned(Workflow):
    @step
    async def begin(self, ctx: Context[Any], ev: Go) -> list[Do]:
        for key, value in BEGINNING.items():
            await ctx.store.set(key, value)
        return [Do(plan=ev.plan, part=part, number=0, value=part) for part in range(len(PLANS[ev.plan]))]

    @step
    async def act(self, ctx: Context[Any], ev: Do) -> Do | Over:
        EXECUTED[ctx.run_id, (ev.part, ev.number)] += 1
        operations = PLANS[ev.plan][ev.part]
        operation = operations[ev.number]
        made = result_of(operation, ev.value, [await ctx.store.get(key, 0) for key in operation.reads])
        if operation.writes:
            await ctx.store.set(operation.writes, made % 5)
        for number in range(operation.notes):
            ctx.write_event_to_stream(Note(part=ev.part, number=number, value=made))
        if ev.number + 1 == len(operations):
            return Over(part=ev.part, value=made)
        return Do(plan=ev.plan, part=ev.part, number=ev.number + 1, value=made)

    @step
    async def add(self, ctx: Context[Any], evs: Annotated[list[Over], Collect()]) -> StopEvent:
        EXECUTED[ctx.run_id, "add"] += 1
        return StopEvent(result=sorted((each.part, each.value) for each in evs))


def random_plan(chosen: random.Random) -> list[list[Operation]]:
    """Return chains that read the initial state, and read and write their own keys."""

    def operation(part: int) -> Operation:
        own = [f"own{part}", f"other{part}"]
        reads = tuple(chosen.sample(["a", "b", *own], chosen.choice([0, 0, 1, 2])))
        return Operation(reads, chosen.choice(["", "", *own]), chosen.choice([0, 0, 1, 3]))

    return [[operation(part) for _ in range(chosen.randint(1, 6))] for part in range(chosen.randint(2, 5))]


def simulated(plan: list[list[Operation]], state: dict[str, int], values: Mapping[int, int]) -> dict[Any, Any]:
    """Return what each step receives and reads."""
    given: dict[Any, Any] = {}
    ends = []
    for part, operations in enumerate(plan):
        value = values[part]
        for number, operation in enumerate(operations):
            read = [state.get(key, 0) for key in operation.reads]
            given[part, number] = value, read
            value = result_of(operation, value, read)
            if operation.writes:
                state[operation.writes] = value % 5
        ends.append(value)
    return given | {"add": ends}


async def notes_of(handler: umbel.WorkflowHandler) -> list[tuple[int, int, int]]:
    events = [event async for event in handler.stream_events()]
    return sorted((event.part, event.number, event.value) for event in events if isinstance(event, Note))


@pytest.mark.parametrize("seed", range(8))
async def test_a_fork_with_recorded_outcomes_has_the_same_result(seed: int) -> None:
    chosen = random.Random(seed)
    plan = PLANS[f"plan{seed}"] = random_plan(chosen)
    handler = Planned().run(plan=f"plan{seed}")
    await handler
    begun = await handler.at("after begin")
    items = {item.events[0].field("part"): item for item in begun.work().items}
    values, events, state = {part: part for part in items}, {}, dict[str, int]()
    if chosen.random() < 0.7:
        part = chosen.choice(list(items))
        values[part] += 100
        events[items[part].work_id] = {"value": values[part]}
    if chosen.random() < 0.7:
        state[chosen.choice(["a", "b"])] = 50

    fork = await handler.fork(begun, events=events, state=state, reuse="recorded")
    plain = await handler.fork(begun, events=events, state=state)

    assert await fork == await plain
    assert await notes_of(fork) == await notes_of(plain)
    ends = [(await each.ctx.store.get_state()).to_dict() for each in (fork, plain)]
    assert ends[0] == ends[1]
    before = simulated(plan, dict(BEGINNING), {part: part for part in items})
    after = simulated(plan, BEGINNING | state, values)
    assert executed(fork.run_id) == {what: 1 for what in before if before[what] != after[what]}
