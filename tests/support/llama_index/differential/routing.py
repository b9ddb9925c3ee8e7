"""How events are routed to steps: by class, by name, to all that accept them."""

from __future__ import annotations

from typing import Any

from workflows import Context, Workflow, step
from workflows.events import (
    StartEvent,
    StopEvent,
)

from .cases import A, B, C, Done, SubA, Typed, case, followed


class Chain(Workflow):
    @step
    async def one(self, ev: StartEvent) -> A:
        return A(n=ev.n + 1)

    @step
    async def two(self, ev: A) -> B:
        return B(n=ev.n * 2)

    @step
    async def three(self, ev: B) -> StopEvent:
        return StopEvent(result=ev.n)


@case
async def a_chain() -> Any:
    return await followed(Chain().run(n=3))


@case
async def a_chain_with_its_progress() -> Any:
    return await followed(Chain().run(n=3), internal=True)


class Branch(Workflow):
    @step
    async def choose(self, ev: StartEvent) -> A | B:
        return A(n=1) if ev.left else B(n=2)

    @step
    async def left(self, ev: A) -> StopEvent:
        return StopEvent(result=f"left {ev.n}")

    @step
    async def right(self, ev: B) -> StopEvent:
        return StopEvent(result=f"right {ev.n}")


@case
async def branches() -> Any:
    return [await followed(Branch().run(left=True)), await followed(Branch().run(left=False))]


class Loop(Workflow):
    @step
    async def count(self, ev: StartEvent | A) -> A | StopEvent:
        n = ev.n if isinstance(ev, A) else 0
        return StopEvent(result=n) if n == 5 else A(n=n + 1)


@case
async def a_loop() -> Any:
    return await followed(Loop().run())


class Broadcast(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> A:
        return A(n=1)

    @step
    async def one(self, ev: A) -> B:
        return B(n=ev.n)

    @step
    async def other(self, ev: A) -> C:
        return C(n=ev.n + 1)

    @step
    async def join(self, b: B, c: C) -> StopEvent:
        return StopEvent(result=[b.n, c.n])


@case
async def an_event_goes_to_every_step_that_takes_it() -> Any:
    return await followed(Broadcast().run())


class Exact(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> B | A:
        ctx.send_event(SubA(n=9))
        return B(n=1)

    @step
    async def takes_a(self, ev: A) -> StopEvent:
        return StopEvent(result="a")

    @step
    async def takes_b(self, ev: B) -> StopEvent:
        return StopEvent(result="b")


@case
async def routing_is_by_exact_class() -> Any:
    return await followed(Exact().run())


class Subclasses(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> SubA:
        return SubA(n=9)

    @step(accept_event_subclasses=True)
    async def takes(self, ev: A) -> StopEvent:
        return StopEvent(result=[type(ev).__name__, ev.n])


@case
async def a_step_can_take_subclasses() -> Any:
    return await followed(Subclasses().run())


class Plain(Workflow):
    @step
    def begin(self, ev: StartEvent) -> A:
        return A(n=2)

    @step
    def end(self, ev: A) -> StopEvent:
        return StopEvent(result=ev.n)


@case
async def plain_steps() -> Any:
    return await followed(Plain().run())


class Nothing(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A | None:
        ctx.send_event(A(n=1))
        return None

    @step
    async def end(self, ev: A) -> StopEvent:
        return StopEvent(result=ev.n)


@case
async def a_step_that_returns_nothing() -> Any:
    return await followed(Nothing().run())


class Free(Workflow):
    """Its steps are functions."""


@step(workflow=Free)
async def free_begin(ev: StartEvent) -> A:
    return A(n=4)


@step(workflow=Free)
async def free_end(ev: A) -> StopEvent:
    return StopEvent(result=ev.n)


@case
async def steps_that_are_functions() -> Any:
    return await followed(Free().run())


class Base(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> A:
        return A(n=1)

    @step
    async def end(self, ev: A) -> StopEvent:
        return StopEvent(result="base")


class Derived(Base):
    @step
    async def end(self, ev: A) -> StopEvent:
        return StopEvent(result="derived")


@case
async def a_derived_workflow_overrides_a_step() -> Any:
    return await followed(Derived().run())


class TypedFlow(Workflow):
    @step
    async def only(self, ev: Typed) -> Done:
        return Done(total=ev.n)


@case
async def typed_start_and_stop() -> Any:
    return [await followed(TypedFlow().run(n=2)), await followed(TypedFlow().run(start_event=Typed(n=3)))]


class Targeted(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A | B | None:
        ctx.send_event(A(n=1), step="other")
        return None

    @step
    async def one(self, ev: A) -> StopEvent:
        return StopEvent(result="one")

    @step
    async def other(self, ev: A) -> StopEvent:
        return StopEvent(result="other")

    @step
    async def third(self, ev: B) -> StopEvent:
        return StopEvent(result="third")


@case
async def an_event_sent_to_one_step() -> Any:
    return await followed(Targeted().run())
