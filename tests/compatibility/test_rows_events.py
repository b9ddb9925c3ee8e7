"""Rows 49 to 56: events as values, and the events that a run publishes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, PrivateAttr

from umbel import Context, Workflow, WorkflowHandler, step
from umbel.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    StartEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowIdleEvent,
)


class Order(Event):
    number: int
    tags: list[str] = Field(default_factory=list)
    _note: str = PrivateAttr(default="")


class Item(Event):
    n: int


class Asked(InputRequiredEvent):
    question: str


class Answer(HumanResponseEvent):
    text: str


class Receipt(StopEvent):
    total: int


# -- 49 ----------------------------------------------------------------------------------------------------------------

DYNAMIC = Order(number=1, colour="red", size=None)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (DYNAMIC.colour, "red"),
        (DYNAMIC["colour"], "red"),
        (DYNAMIC.number, 1),
        (len(DYNAMIC), 2),
        (len(Order(number=1)), 0),
        ("colour" in DYNAMIC, True),
        ("number" in DYNAMIC, False),
        (list(DYNAMIC), ["colour", "size"]),
        (list(DYNAMIC.keys()), ["colour", "size"]),
        (list(DYNAMIC.values()), ["red", None]),
        (list(DYNAMIC.items()), [("colour", "red"), ("size", None)]),
        (DYNAMIC.to_dict(), {"colour": "red", "size": None}),
        (DYNAMIC.get("colour"), "red"),
        (DYNAMIC.get("number"), None),
        (DYNAMIC.get("weight", 3), 3),
        (DYNAMIC.get("size", 3), None),
        (bool(Event()), True),
        (Order(number=1, _note="fragile")._note, "fragile"),
    ],
)
@pytest.mark.row(49)
def test_attributes_and_the_dict_face_of_an_event(got: object, expected: object) -> None:
    assert got == expected


@pytest.mark.row(49)
def test_fields_are_no_keys_and_what_is_set_becomes_a_key() -> None:
    event = Order(number=1)

    with pytest.raises(KeyError):
        event["number"]
    with pytest.raises(KeyError):
        event["colour"]
    with pytest.raises(AttributeError):
        _ = event.colour
    event.colour = "blue"
    event["size"] = 4
    event.number = 2
    assert (event.number, event.to_dict()) == (2, {"colour": "blue", "size": 4})


# -- 50 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "dumped"),
    [
        (Event(), {}),
        (Event(a=1), {"_data": {"a": 1}}),
        (Order(number=1), {"number": 1, "tags": []}),
        (Order(number=1, a=2), {"number": 1, "tags": [], "_data": {"a": 2}}),
    ],
)
@pytest.mark.row(50)
def test_a_dump_has_data_only_when_there_are_dynamic_ones(event: Event, dumped: dict[str, Any]) -> None:
    assert event.model_dump() == dumped
    assert type(event).model_validate(dumped) == event
    assert type(event).model_validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize("given", [{"a": 1}, {"_data": {"a": 1}}])
@pytest.mark.row(50)
def test_both_forms_are_read(given: dict[str, Any]) -> None:
    assert Event.model_validate(given) == Event(a=1)
    assert Order.model_validate({"number": 1, **given}) == Order(number=1, a=1)


# -- 51 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "dumped", "text", "shown"),
    [
        (StopEvent(), {}, "None", "StopEvent()"),
        (StopEvent(result=None), {}, "None", "StopEvent()"),
        (StopEvent(result=0), {"result": 0}, "0", "StopEvent(result=0)"),
        (StopEvent(result={"a": 1}), {"result": {"a": 1}}, "{'a': 1}", "StopEvent(result={'a': 1})"),
        (StopEvent(result="x", a=1), {"result": "x", "_data": {"a": 1}}, "x", "StopEvent(a=1, result='x')"),
        (Receipt(total=3), {"total": 3}, "None", "Receipt(total=3)"),
    ],
)
@pytest.mark.row(51)
def test_a_stop_event_as_dump_text_and_repr(event: StopEvent, dumped: dict[str, Any], text: str, shown: str) -> None:
    assert (event.model_dump(), str(event), repr(event)) == (dumped, text, shown)
    assert type(event).model_validate(dumped) == event


@pytest.mark.row(51)
async def test_the_result_of_a_stop_event_and_of_a_subclass() -> None:
    class Computed(StopEvent):
        parts: list[int]

        def _get_result(self) -> int:
            return sum(self.parts)

    assert (StopEvent(result=5).result, StopEvent().result, Computed(parts=[1, 2]).result) == (5, None, 3)
    assert str(Computed(parts=[1, 2])) == "3"

    class Adds(Workflow):
        @step
        async def add(self, ev: StartEvent) -> Computed:
            return Computed(parts=ev.parts)

    ending = await Adds().run(parts=[4, 5])
    assert type(ending) is Computed  # for a subclass, awaiting returns the event itself
    assert (ending.parts, ending.result) == ([4, 5], 9)


# -- 52 ----------------------------------------------------------------------------------------------------------------


class Form(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Asked:
        return Asked(question="name?")

    @step
    async def close(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


async def answered(
    handler: WorkflowHandler, *, expose_internal: bool = False, stray: Event | None = None
) -> list[Event]:
    """Return all events of a run of `Form`, which is answered as soon as it asks and idles."""
    seen: list[Event] = []
    last_before_answer = WorkflowIdleEvent if expose_internal else Asked
    async for event in handler.stream_events(expose_internal=expose_internal):
        seen.append(event)
        if type(event) is last_before_answer:
            if stray is not None:
                await handler.send_event(stray)
            await handler.send_event(Answer(text="Ada"))
    return seen


@pytest.mark.row(52)
async def test_a_returned_input_required_event_is_published_once() -> None:
    handler = Form().run()

    assert await answered(handler) == [Asked(question="name?"), StopEvent(result="Ada")]
    assert await handler == "Ada"


# -- 53 ----------------------------------------------------------------------------------------------------------------


class TwoSteps(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Item:
        return Item(n=1)

    @step
    async def second(self, ev: Item) -> StopEvent:
        return StopEvent(result=ev.n)


START_CLASS, STOP_CLASS = "<class 'umbel.events.StartEvent'>", "<class 'umbel.events.StopEvent'>"


def states(*rows: tuple[str, str, str, str | None]) -> list[Event]:
    """Return step state changes in the only slot of their steps, by step, state, and names of input and output."""
    return [
        StepStateChanged(
            name=name, step_state=StepState(state), worker_id="0", input_event_name=given, output_event_name=out
        )
        for name, state, given, out in rows
    ]


@pytest.mark.row(53)
async def test_the_exact_sequence_of_a_run_of_two_steps() -> None:
    handler = TwoSteps().run()

    assert [event async for event in handler.stream_events(expose_internal=True)] == [
        *states(
            ("first", "running", "StartEvent", None),
            ("first", "not_running", START_CLASS, str(Item)),
            ("second", "running", "Item", None),
            ("second", "not_running", str(Item), STOP_CLASS),
        ),
        StopEvent(result=1),
    ]


@pytest.mark.row(53)
async def test_a_step_has_ended_before_what_it_asked_is_published() -> None:
    assert await answered(Form().run(), expose_internal=True) == [
        *states(("ask", "running", "StartEvent", None), ("ask", "not_running", START_CLASS, str(Asked))),
        Asked(question="name?"),
        WorkflowIdleEvent(),
        *states(("close", "running", "Answer", None), ("close", "not_running", str(Answer), STOP_CLASS)),
        StopEvent(result="Ada"),
    ]


@pytest.mark.row(53)
async def test_what_waits_for_a_slot_is_preparing() -> None:
    class Narrow(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(2)]

        @step(num_workers=1)
        async def work(self, ev: Item) -> Order:
            return Order(number=ev.n)

        @step
        async def join(self, evs: list[Order]) -> StopEvent:
            return StopEvent()

    stream = Narrow().run().stream_events(expose_internal=True, types=[StepStateChanged])
    found = [
        (event.step_state.value, event.worker_id, event.input_event_name)
        async for event in stream
        if event.name == "work"
    ]

    assert found == [
        ("preparing", "<enqueued>", "Item"),
        ("running", "0", "Item"),
        ("not_running", "0", str(Item)),
        ("running", "0", "Item"),
        ("not_running", "0", str(Item)),
    ]


# -- 54 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(54)
async def test_idleness_and_an_event_that_no_step_takes_are_reported() -> None:
    handler = Form().run()
    events = await answered(handler, expose_internal=True, stray=Item(n=9))

    kinds = [type(event) for event in events]
    assert kinds.count(WorkflowIdleEvent) == 1
    assert [event for event in events if isinstance(event, UnhandledEvent)] == [
        UnhandledEvent(event_type="Item", qualified_name=f"{__name__}.Item", step_name=None, idle=True)
    ]
    assert kinds.index(WorkflowIdleEvent) < kinds.index(UnhandledEvent)


@pytest.mark.row(54)
async def test_an_unhandled_event_of_a_working_step_is_not_idle_and_input_required_is_never_unhandled() -> None:
    class Strays(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(Item(n=1))
            ctx.send_event(Asked(question="?"))
            return StopEvent()

    stream = Strays().run().stream_events(expose_internal=True, types=[UnhandledEvent])
    assert [(event.event_type, event.idle) async for event in stream] == [("Item", False)]


@pytest.mark.row(54)
async def test_an_event_that_nobody_takes_yet_is_kept_for_a_waiter() -> None:
    """LlamaIndex Workflows loses an answer that arrives before its question."""

    class Ready(HumanResponseEvent):
        pass

    class Slow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Asked:
            return Asked(question="ready?")

        @step
        async def proceed(self, ctx: Context, ev: Ready) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(Answer)).text)

    handler = Slow().run()
    await handler.send_event(Answer(text="early"))
    await handler.send_event(Ready())
    assert await handler == "early"


# -- 55 ----------------------------------------------------------------------------------------------------------------


class Tells(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(3):
            ctx.write_event_to_stream(Item(n=n))
        ctx.write_event_to_stream(None)
        return StopEvent(result="published")


PUBLISHED = [Item(n=0), Item(n=1), Item(n=2), StopEvent(result="published")]


@pytest.mark.row(55)
async def test_internal_events_are_hidden_by_default_and_a_late_reader_misses_nothing() -> None:
    handler = Tells().run()
    await handler

    assert [event async for event in handler.stream_events()] == PUBLISHED
    shown = [event async for event in handler.stream_events(expose_internal=True)]
    assert [event for event in shown if not isinstance(event, InternalDispatchEvent)] == PUBLISHED
    assert len(shown) == len(PUBLISHED) + 2


@pytest.mark.row(55)
async def test_every_reader_sees_all_and_one_that_stopped_early_resumes_where_it_stopped() -> None:
    """In LlamaIndex Workflows, a second reading raises; umbel keeps the log, so any number of readers get all of it."""
    handler = Tells().run()
    for _ in range(2):
        assert [event async for event in handler.stream_events()] == PUBLISHED

    async for event in handler.stream_events():
        assert event == PUBLISHED[0]
        break
    assert [event async for event in handler.stream_events()] == PUBLISHED[1:]


# -- 56 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(56)
async def test_a_stop_event_that_a_step_writes_to_the_stream_does_not_end_it() -> None:
    """In LlamaIndex Workflows, it ends the stream although the run continues; in umbel, only the run's own end does."""

    class Premature(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(StopEvent(result="not yet"))
            ctx.write_event_to_stream(Item(n=1))
            return StopEvent(result="now")

    handler = Premature().run()

    assert [event async for event in handler.stream_events()] == [
        StopEvent(result="not yet"),
        Item(n=1),
        StopEvent(result="now"),
    ]
    assert await handler == "now"
