"""Workflows as their users write them, each with what it publishes, returns or raises, printed as JSON.

`python differential.py` executes them in LlamaIndex Workflows, `umbel exec --llama-index differential.py` on umbel.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field
from workflows import Context, Workflow, catch_error, step
from workflows.collect import Collect, Take
from workflows.context import JsonSerializer, PickleSerializer
from workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from workflows.resource import Resource
from workflows.retry_policy import (
    ConstantDelayRetryPolicy,
    retry_if_exception_type,
    retry_policy,
    stop_after_attempt,
    wait_fixed,
)
from workflows.testing import WorkflowTestRunner

warnings.simplefilter("ignore")

CASES: dict[str, Callable[[], Awaitable[Any]]] = {}


def case(function: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """A case, by its name."""
    CASES[function.__name__] = function
    return function


class A(Event):
    n: int = 0


class B(Event):
    n: int = 0


class C(Event):
    n: int = 0


class SubA(A):
    """Of a subclass."""


class Ask(InputRequiredEvent):
    question: str = "?"


class Answer(HumanResponseEvent):
    text: str = ""


class Told(Event):
    text: str


class Typed(StartEvent):
    n: int


class Done(StopEvent):
    total: int


def shown(event: Event) -> Any:
    """An event as it is compared."""
    return [type(event).__name__, event.model_dump(mode="json")]


def failure(error: BaseException) -> dict[str, str]:
    """An error as it is compared: its class, and the first line of its message."""
    return {"error": type(error).__name__, "says": str(error).split("\n")[0][:120]}


async def told(handler: Any, answer: Callable[[Any, Event], Any] | None = None, internal: bool = False) -> Any:
    """What a run publishes, and its result or error."""
    events: list[Any] = []
    async for event in handler.stream_events(expose_internal=internal):
        events.append(shown(event))
        if answer is not None and isinstance(event, InputRequiredEvent):
            answer(handler, event)
    try:
        result = await handler
    except Exception as error:
        return {"events": events, **failure(error)}
    return {"events": events, "result": shown(result) if isinstance(result, Event) else result}


# -- routing -----------------------------------------------------------------------------------------------------------


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
    return await told(Chain().run(n=3))


@case
async def a_chain_with_its_progress() -> Any:
    return await told(Chain().run(n=3), internal=True)


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
    return [await told(Branch().run(left=True)), await told(Branch().run(left=False))]


class Loop(Workflow):
    @step
    async def count(self, ev: StartEvent | A) -> A | StopEvent:
        n = ev.n if isinstance(ev, A) else 0
        return StopEvent(result=n) if n == 5 else A(n=n + 1)


@case
async def a_loop() -> Any:
    return await told(Loop().run())


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
    return await told(Broadcast().run())


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
    return await told(Exact().run())


class Subclasses(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> SubA:
        return SubA(n=9)

    @step(accept_event_subclasses=True)
    async def takes(self, ev: A) -> StopEvent:
        return StopEvent(result=[type(ev).__name__, ev.n])


@case
async def a_step_can_take_subclasses() -> Any:
    return await told(Subclasses().run())


class Plain(Workflow):
    @step
    def begin(self, ev: StartEvent) -> A:
        return A(n=2)

    @step
    def end(self, ev: A) -> StopEvent:
        return StopEvent(result=ev.n)


@case
async def plain_steps() -> Any:
    return await told(Plain().run())


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
    return await told(Nothing().run())


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
    return await told(Free().run())


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
    return await told(Derived().run())


class TypedFlow(Workflow):
    @step
    async def only(self, ev: Typed) -> Done:
        return Done(total=ev.n)


@case
async def typed_start_and_stop() -> Any:
    return [await told(TypedFlow().run(n=2)), await told(TypedFlow().run(start_event=Typed(n=3)))]


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
    return await told(Targeted().run())


# -- fan-out and joins -------------------------------------------------------------------------------------------------


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
    return await told(Fan().run(n=4))


@case
async def a_fan_out_of_nothing() -> Any:
    return await told(Fan().run(n=0))


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
    return await told(Nested().run())


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
    return await told(First().run())


class Either(Workflow):
    @step
    async def out(self, ev: StartEvent) -> list[A | B]:
        return [A(n=1), B(n=2), A(n=3)]

    @step
    async def join(self, evs: list[A | B]) -> StopEvent:
        return StopEvent(result=sorted(f"{type(ev).__name__}{ev.n}" for ev in evs))


@case
async def a_join_of_two_classes() -> Any:
    return await told(Either().run())


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
    return [await told(Bare().run(bare=True)), await told(Bare().run(bare=False))]


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
    return await told(Sets().run())


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
    report = await told(CollectFlow().run())
    return report | {"result": sorted(report["result"])}


# -- waiting -----------------------------------------------------------------------------------------------------------


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
    return await told(Waiting().run(), ada)


class TwoWaits(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        one = await ctx.wait_for_event(Answer, waiter_id="one", waiter_event=Ask(question="1"), requirements={"q": 1})
        two = await ctx.wait_for_event(Answer, waiter_id="two", waiter_event=Ask(question="2"), requirements={"q": 2})
        return StopEvent(result=[one.text, two.text])


@case
async def two_waits_one_after_the_other() -> Any:
    return await told(
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
    return await told(TimedWait().run())


class Returned(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Ask:
        return Ask(question="well?")

    @step
    async def take(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


@case
async def a_question_that_is_returned() -> Any:
    return await told(Returned().run(), lambda handler, event: handler.ctx.send_event(Answer(text="yes")))


# -- failures ----------------------------------------------------------------------------------------------------------


class Failing(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError("on purpose")


@case
async def a_step_that_fails() -> Any:
    report = await told(Failing().run())
    for _, fields in report["events"]:
        fields.pop("elapsed_seconds", None)
        fields.pop("exception", None)
    return report


class Retried(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
        number = ctx.retry_info().retry_number
        if number < 2:
            raise ValueError(f"attempt {number}")
        return StopEvent(result=number)


@case
async def a_retry() -> Any:
    return await told(Retried().run())


class Exhausted(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=0))
    async def flaky(self, ev: StartEvent) -> StopEvent:
        raise KeyError("never")


@case
async def retries_that_are_exhausted() -> Any:
    report = await told(Exhausted().run())
    return {key: value for key, value in report.items() if key != "events"} | {"n": len(report["events"])}


class OnlyOs(Workflow):
    @step(retry_policy=retry_policy(retry=retry_if_exception_type(OSError), stop=stop_after_attempt(5)))
    async def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise OSError("again") if ctx.retry_info().retry_number == 0 else ValueError("not again")


@case
async def a_retry_for_some_errors_only() -> Any:
    report = await told(OnlyOs().run())
    return {key: value for key, value in report.items() if key != "events"}


class Recovering(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> A:
        return A(n=6)

    @step
    async def fail(self, ev: A) -> StopEvent:
        raise RuntimeError("broken")

    @catch_error
    async def recover(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(
            result=[ev.step_name, type(ev.exception).__name__, str(ev.exception), ev.attempts, ev.input_event.n]
        )


@case
async def a_recovery() -> Any:
    return await told(Recovering().run())


class Scoped(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> A:
        raise RuntimeError("first")

    @step
    async def second(self, ev: A) -> StopEvent:
        raise RuntimeError("second")

    @catch_error(for_steps=["begin"])
    async def of_begin(self, ev: StepFailedEvent) -> A:
        return A(n=1)

    @catch_error
    async def of_others(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result=ev.step_name)


@case
async def recoveries_of_some_steps_and_of_the_rest() -> Any:
    return await told(Scoped().run())


class RecoveredMember(Workflow):
    @step
    async def out(self, ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(3)]

    @step
    async def work(self, ev: A) -> B:
        if ev.n == 1:
            raise ValueError("one")
        return B(n=ev.n)

    @catch_error
    async def recover(self, ev: StepFailedEvent) -> B:
        return B(n=100)

    @step
    async def join(self, evs: list[B]) -> StopEvent:
        return StopEvent(result=sorted(ev.n for ev in evs))


@case
async def a_recovered_member_of_a_fan_out() -> Any:
    return await told(RecoveredMember().run())


class WrongReturn(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return "text"  # type: ignore[return-value]


@case
async def a_step_that_returns_no_event() -> Any:
    report = await told(WrongReturn().run())
    return {key: value for key, value in report.items() if key != "events"}


class Endless(Workflow):
    @step
    async def wait(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()


@case
async def a_run_that_takes_too_long() -> Any:
    return await told(Endless(timeout=0.5).run())


@case
async def a_run_that_is_cancelled() -> Any:
    handler = Endless().run()
    await asyncio.sleep(0.3)
    await handler.cancel_run()
    try:
        await handler
    except Exception as error:
        return type(error).__name__
    return "no error"


# -- definitions that are refused --------------------------------------------------------------------------------------


def refused(make: Callable[[], Any]) -> dict[str, str]:
    """What a mistake is answered with."""
    try:
        make()
    except Exception as error:
        return {"error": type(error).__name__}
    return {"error": "none"}


@case
async def mistakes_in_a_definition() -> Any:
    def no_annotation() -> None:
        class Flow(Workflow):
            @step
            async def only(self, ev: StartEvent):  # type: ignore[no-untyped-def]
                return StopEvent()

    def no_event() -> None:
        class Flow(Workflow):
            @step
            async def only(self, text: str) -> StopEvent:
                return StopEvent()

    def no_workers() -> None:
        class Flow(Workflow):
            @step(num_workers=0)
            async def only(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

    def no_start() -> None:
        class Flow(Workflow):
            @step
            async def only(self, ev: A) -> StopEvent:
                return StopEvent()

        Flow()

    def no_stop() -> None:
        class Flow(Workflow):
            @step
            async def only(self, ev: StartEvent) -> None:
                return None

        Flow()

    def unproduced() -> None:
        class Flow(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

            @step
            async def other(self, ev: A) -> StopEvent:
                return StopEvent()

        Flow().validate()

    def unconsumed() -> None:
        class Flow(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent | A:
                return StopEvent()

        Flow().validate()

    def takes_stop() -> None:
        class Flow(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

            @step
            async def late(self, ev: StopEvent) -> None:
                return None

        Flow().validate()

    makes = (no_annotation, no_event, no_workers, no_start, no_stop, unproduced, unconsumed, takes_stop)
    return {make.__name__: refused(make) for make in makes}


@case
async def arguments_that_are_refused() -> Any:
    return [
        refused(lambda: Chain(num_concurrent_runs=0)),
        refused(lambda: Chain(skip_graph_checks={"nothing"})),  # type: ignore[arg-type]
        refused(lambda: TypedFlow().run(wrong=1)),
        refused(lambda: Chain().run(start_event=A())),  # type: ignore[arg-type]
    ]


@case
async def human_in_the_loop_is_found() -> Any:
    return [Returned().validate(), Chain().validate()]


# -- state -------------------------------------------------------------------------------------------------------------


class Stateful(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A:
        await ctx.store.set("a.b", 1)
        await ctx.store.set("list", [1, {"x": 2}])
        async with ctx.store.edit_state() as state:
            state["n"] = state.get("n", 0) + 1
        return A()

    @step
    async def end(self, ctx: Context, ev: A) -> StopEvent:
        state = await ctx.store.get_state()
        missing = await ctx.store.get("nothing", default="none")
        return StopEvent(
            result=[
                await ctx.store.get("a.b"),
                await ctx.store.get("list.1.x"),
                state["n"],
                missing,
                sorted(state.keys()),
            ]
        )


@case
async def state_by_path() -> Any:
    return await told(Stateful().run())


@case
async def state_that_a_second_run_goes_on_with() -> Any:
    flow = Stateful()
    ctx: Any = Context(flow)
    return [await flow.run(ctx=ctx), await flow.run(ctx=ctx)]


class Counted(BaseModel):
    count: int = 0
    names: list[str] = Field(default_factory=list)


class TypedState(Workflow):
    @step
    async def begin(self, ctx: Context[Counted], ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state.count += 1
            state.names.append("one")
        await ctx.store.set("count", 5)
        found = await ctx.store.get_state()
        return StopEvent(result=[found.count, found.names, type(found).__name__])


@case
async def typed_state() -> Any:
    return await told(TypedState().run())


class MissingState(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.get("nothing")
        return StopEvent()


@case
async def state_that_is_missing() -> Any:
    report = await told(MissingState().run())
    return {key: value for key, value in report.items() if key != "events"}


class Cleared(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("x", 1)
        await ctx.store.clear()
        return StopEvent(result=await ctx.store.get("x", default=None))


@case
async def state_that_is_cleared() -> Any:
    return await told(Cleared().run())


class RolledBack(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("x", 1)
        try:
            async with ctx.store.edit_state() as state:
                state["x"] = 2
                raise ValueError("no")
        except ValueError:
            pass
        return StopEvent(result=await ctx.store.get("x"))


@case
async def an_edit_that_raises() -> Any:
    return await told(RolledBack().run())


class Mutating(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A:
        await ctx.store.set("list", [1])
        (await ctx.store.get("list")).append(2)
        return A()

    @step
    async def end(self, ctx: Context, ev: A) -> StopEvent:
        return StopEvent(result=await ctx.store.get("list"))


@case
async def state_that_is_changed_in_place() -> Any:
    return await told(Mutating().run())


@case
async def state_that_is_set_before_the_run() -> Any:
    flow = Mutating()
    ctx: Any = Context(flow)
    await ctx.store.set("before", 1)
    await flow.run(ctx=ctx)
    return await ctx.store.get("before")


# -- streams -----------------------------------------------------------------------------------------------------------


class Telling(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A:
        for n in range(3):
            ctx.write_event_to_stream(Told(text=f"part {n}"))
        return A()

    @step
    async def end(self, ctx: Context, ev: A) -> StopEvent:
        ctx.write_event_to_stream(Told(text="the end"))
        return StopEvent(result={"a": (1, 2), "b": None})


@case
async def a_stream() -> Any:
    report = await told(Telling().run())
    return report | {"result": str(report["result"])}


@case
async def a_stream_that_is_read_late() -> Any:
    handler = Telling().run()
    await handler
    return [shown(event) async for event in handler.stream_events()][:-1]


class Dynamic(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> StopEvent:
        event = A(n=1, extra="x")
        event["more"] = [1]
        return StopEvent(
            result=[
                event.get("extra"),
                event.get("nothing", default=3),
                sorted(event.keys()),
                "more" in event,
                len(event),
                event.to_dict(),
                ev.get("given", default=None),
                bool(Event()),
            ]
        )


@case
async def dynamic_fields() -> Any:
    return await told(Dynamic().run(given=[1, {"a": None}]))


@case
async def events_as_text() -> Any:
    return [str(StopEvent(result=3)), repr(StopEvent(result="x")), A(n=1, x=2).model_dump(), StopEvent().result]


@case
async def a_test_runner() -> Any:
    found = await WorkflowTestRunner(Telling()).run(start_event=StartEvent())
    counted = {kind.__name__: n for kind, n in found.event_types.items() if kind in (Told, StopEvent)}
    return [counted, str(found.result)]


# -- resources ---------------------------------------------------------------------------------------------------------

MADE: list[str] = []


def client() -> str:
    MADE.append("client")
    return "a client"


async def other_client() -> str:
    return "another"


class Supplied(Workflow):
    @step
    async def begin(
        self, ev: StartEvent, one: Annotated[str, Resource(client)], two: Annotated[str, Resource(other_client)]
    ) -> A:
        return A(n=len(one) + len(two))

    @step
    async def end(self, ev: A, one: Annotated[str, Resource(client)]) -> StopEvent:
        return StopEvent(result=[ev.n, one])


@case
async def resources() -> Any:
    report = await told(Supplied().run())
    return [report, MADE]


# -- snapshots ---------------------------------------------------------------------------------------------------------


class Pausing(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> A:
        await ctx.store.set("n", ev.n)
        return A(n=ev.n)

    @step
    async def ask(self, ctx: Context, ev: A) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask(question="go on?"))
        return StopEvent(result=[answer.text, ev.n, await ctx.store.get("n")])


async def paused(flow: Workflow, serializer: Any = None) -> Any:
    """A snapshot of a run that waits."""
    handler: Any = flow.run(n=5)
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            break
    data = handler.ctx.to_dict(serializer=serializer)
    await handler.cancel_run()
    return json.loads(json.dumps(data))


async def resumed(flow: Workflow, data: Any, serializer: Any = None) -> Any:
    """What a run that goes on from a snapshot comes to."""
    handler: Any = flow.run(ctx=Context.from_dict(flow, data, serializer=serializer))
    handler.ctx.send_event(Answer(text="yes"))
    return await handler


@case
async def a_snapshot_of_a_wait() -> Any:
    return await resumed(Pausing(), await paused(Pausing()))


@case
async def a_snapshot_with_a_pickle_serializer() -> Any:
    serializer = PickleSerializer()
    return await resumed(Pausing(), await paused(Pausing(), serializer), serializer)


@case
async def a_snapshot_of_an_ended_run_keeps_the_state() -> Any:
    flow = Stateful()
    handler: Any = flow.run()
    await handler
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    return [data["is_running"], await flow.run(ctx=Context.from_dict(flow, data))]


@case
async def a_snapshot_without_the_state() -> Any:
    flow = Stateful()
    handler: Any = flow.run()
    await handler
    data = json.loads(json.dumps(handler.ctx.to_dict(include_state=False)))
    return [bool(data["state"]), await flow.run(ctx=Context.from_dict(flow, data))]


@case
async def a_snapshot_before_the_run() -> Any:
    flow = Stateful()
    ctx: Any = Context(flow)
    await ctx.store.set("n", 41)
    data = json.loads(json.dumps(ctx.to_dict()))
    return [data["is_running"], (await flow.run(ctx=Context.from_dict(flow, data)))[2]]


@case
async def a_snapshot_that_is_damaged() -> Any:
    return [
        refused(lambda: Context.from_dict(Chain(), {"version": 99})),
        refused(lambda: Context.from_dict(Chain(), {"version": 2, "workers": 3})),
    ]


# -- serializers -------------------------------------------------------------------------------------------------------


class Model(BaseModel):
    x: int
    inner: A | None = None


@case
async def a_serializer_writes_and_reads() -> Any:
    serializer = JsonSerializer()
    values = [1, "x", [1, {"a": None}], Model(x=1), A(n=2, extra=3), {"m": Model(x=2)}]
    read = [serializer.deserialize(serializer.serialize(value)) for value in values]
    return [shown(value) if isinstance(value, Event) else repr(value) for value in read]


@case
async def a_serializer_with_allowed_types() -> Any:
    serializer = JsonSerializer(allowed_types=[Model])
    text = serializer.serialize(Model(x=1))
    other = JsonSerializer(allowed_types=[])
    try:
        other.deserialize(text)
    except Exception as error:
        answered: Any = isinstance(error, ValueError)
    else:
        answered = "read"
    return [repr(serializer.deserialize(text)), answered, repr(other.with_types(Model).deserialize(text))]


class Noting(JsonSerializer):
    """Notes what it is used for."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def serialize(self, value: Any) -> str:
        self.used.add("serialize")
        return super().serialize(value)

    def deserialize(self, value: str) -> Any:
        self.used.add("deserialize")
        return super().deserialize(value)


@case
async def a_workflow_with_a_serializer() -> Any:
    serializer = Noting()
    flow = Pausing(serializer=serializer)
    result = await resumed(flow, await paused(flow))
    return [flow.serializer is serializer, Pausing().serializer, sorted(serializer.used), result]


# -- handlers ----------------------------------------------------------------------------------------------------------


@case
async def a_run_id() -> Any:
    handler = Chain().run(n=1, run_id="mine-1")
    return [handler.run_id, await handler]


@case
async def several_runs_at_once() -> Any:
    flow = Chain()
    return await asyncio.gather(*(flow.run(n=n) for n in range(10)))


@case
async def a_handler_after_the_end() -> Any:
    handler = Chain().run(n=1)
    return [await handler, await handler, handler.is_done() if hasattr(handler, "is_done") else None]


class Limited(Workflow):
    running = 0
    most = 0

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        Limited.running += 1
        Limited.most = max(Limited.most, Limited.running)
        await asyncio.sleep(0.05)
        Limited.running -= 1
        return StopEvent()


@case
async def a_limit_of_concurrent_runs() -> Any:
    flow = Limited(num_concurrent_runs=2)
    await asyncio.gather(*(flow.run() for _ in range(5)))
    return Limited.most


async def main() -> None:
    for name, function in CASES.items():
        try:
            found = await asyncio.wait_for(function(), 15)
        except BaseException as error:
            found = {"the case": failure(error)}
        print(json.dumps({name: found}, default=str), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
