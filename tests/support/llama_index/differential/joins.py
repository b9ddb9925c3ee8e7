"""Fan-outs and their joins; steps that wait for events."""

from __future__ import annotations

from typing import Annotated, Any

from workflows import Context, Workflow, step
from workflows.collect import Collect, Take
from workflows.events import (
    Event,
    StartEvent,
    StopEvent,
)

from .cases import A, Answer, Ask, B, C, case, followed


class Fan(Workflow):
    @step
    async def out(self, ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(ev.n)]

    @step(num_workers=1)
    async def work(self, ev: A) -> B | None:
        return None if ev.n == 1 else B(n=ev.n * ev.n)

    @step
    async def join(self, evs: list[B]) -> StopEvent:
        return StopEvent(result=sorted(ev.n for ev in evs))


@case
async def a_fan_out_with_a_dead_branch() -> Any:
    return await followed(Fan().run(n=4))


@case
async def a_fan_out_of_nothing() -> Any:
    return await followed(Fan().run(n=0))


class Nested(Workflow):
    @step
    async def outer(self, ev: StartEvent) -> list[A]:
        return [A(n=1), A(n=2)]

    @step
    async def inner(self, ev: A) -> list[B]:
        return [B(n=ev.n * 10 + i) for i in range(ev.n)]

    @step
    async def join_inner(self, evs: list[B]) -> C:
        return C(n=sum(ev.n for ev in evs))

    @step
    async def join_outer(self, evs: list[C]) -> StopEvent:
        return StopEvent(result=sorted(ev.n for ev in evs))


@case
async def nested_fan_outs() -> Any:
    return await followed(Nested().run())


class First(Workflow):
    @step
    async def out(self, ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(3)]

    @step(num_workers=1)
    async def work(self, ev: A) -> B:
        return B(n=ev.n)

    @step
    async def join(self, evs: Annotated[list[B], Collect(Take(2))]) -> StopEvent:
        return StopEvent(result=len(evs))


@case
async def a_join_that_takes_two() -> Any:
    return await followed(First().run())


class Either(Workflow):
    @step
    async def out(self, ev: StartEvent) -> list[A | B]:
        return [A(n=1), B(n=2), A(n=3)]

    @step
    async def join(self, evs: list[A | B]) -> StopEvent:
        return StopEvent(result=sorted(f"{type(ev).__name__}{ev.n}" for ev in evs))


@case
async def a_join_of_two_classes() -> Any:
    return await followed(Either().run())


class Bare(Workflow):
    @step
    async def out(self, ev: StartEvent) -> list[A] | B:
        return B(n=7) if ev.bare else [A(n=1), A(n=2)]

    @step
    async def single(self, ev: B) -> StopEvent:
        return StopEvent(result=ev.n)

    @step
    async def join(self, evs: list[A]) -> StopEvent:
        return StopEvent(result=len(evs))


@case
async def a_list_or_a_single_event() -> Any:
    return [await followed(Bare().run(bare=True)), await followed(Bare().run(bare=False))]


class Sets(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A | B | None:
        for n in range(2):
            ctx.send_event(A(n=n))
            ctx.send_event(B(n=n))
        return None

    @step
    async def join(self, ctx: Context, a: A, b: B) -> StopEvent | C:
        return C(n=a.n * 10 + b.n)

    @step(num_workers=1)
    async def gather(self, ctx: Context, ev: C) -> StopEvent | None:
        found = ctx.collect_events(ev, [C, C])
        return None if found is None else StopEvent(result=sorted(each.n for each in found))


@case
async def repeated_sets_of_a_join() -> Any:
    return await followed(Sets().run())


class CollectFlow(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A | B | None:
        ctx.send_event(B(n=2))
        ctx.send_event(A(n=1))
        ctx.send_event(A(n=3))
        return None

    @step(num_workers=1)
    async def gather(self, ctx: Context, ev: A | B) -> StopEvent | None:
        found = ctx.collect_events(ev, [A, B, A])
        return None if found is None else StopEvent(result=[each.n for each in found])


@case
async def collect_events_in_the_order_that_is_expected() -> Any:
    report = await followed(CollectFlow().run())
    return report | {"result": sorted(report["result"])}


class Waiting(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(
            Answer, waiter_event=Ask(question="name?"), requirements={"user": "ada"}, timeout=20
        )
        return StopEvent(result=answer.text)


def ada(handler: Any, event: Event) -> None:
    handler.ctx.send_event(Answer(text="not me", user="bob"))
    handler.ctx.send_event(Answer(text="me", user="ada"))


@case
async def a_wait_with_requirements() -> Any:
    return await followed(Waiting().run(), ada)


class TwoWaits(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        one = await ctx.wait_for_event(Answer, waiter_id="one", waiter_event=Ask(question="1"), requirements={"q": 1})
        two = await ctx.wait_for_event(Answer, waiter_id="two", waiter_event=Ask(question="2"), requirements={"q": 2})
        return StopEvent(result=[one.text, two.text])


@case
async def two_waits_one_after_the_other() -> Any:
    return await followed(
        TwoWaits().run(),
        lambda handler, event: handler.ctx.send_event(Answer(text=f"to {event.question}", q=int(event.question))),
    )


class TimedWait(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(Answer, timeout=0.2)
        except TimeoutError:
            return StopEvent(result="nobody")
        return StopEvent(result="somebody")


@case
async def a_wait_that_times_out() -> Any:
    return await followed(TimedWait().run())


class Returned(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Ask:
        return Ask(question="well?")

    @step
    async def take(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


@case
async def a_question_that_is_returned() -> Any:
    return await followed(Returned().run(), lambda handler, event: handler.ctx.send_event(Answer(text="yes")))
