"""A run and its child runs from the callers' point of view: handlers, parents, streams."""

from __future__ import annotations

import pytest

from support.store import driving
from support.store.blocking import BlockingStore as Store
from support.store.verb_cases import parent_of
from umbel import ChildRunStarted, Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.orchestration.history.verify import verify

pytestmark = pytest.mark.usefixtures("runtime")


class Note(Event):
    text: str


class Leaf(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Note(text=f"leaf {ev.n}"))
        return StopEvent(result=ev.n)


class Middle(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        total = sum(await ctx.run_all([Leaf.start(n=n) for n in (10 * ev.n, 10 * ev.n + 1)]))
        ctx.write_event_to_stream(Note(text=f"middle {ev.n}"))
        return StopEvent(result=total)


class Root(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=sum(await ctx.run_all([Middle.start(n=n) for n in (1, 2)])))


async def test_a_handler_knows_the_parent_and_the_children_of_its_run() -> None:
    handler = Root().run()
    assert await handler == 62
    children = await handler.children()
    assert len(children) == 2
    for child in children:
        parent = child.parent
        assert parent is not None
        assert parent.run_id == handler.run_id
        assert len(await child.children()) == 2
    assert handler.parent is None


def test_children_are_listed_without_an_event_loop_too() -> None:
    handler = Root().run()
    assert handler.result() == 62
    assert len(list(handler.children())) == 2  # type: ignore[call-overload]


async def test_a_stream_includes_the_events_of_children_and_of_theirs_where_that_is_asked_for() -> None:
    handler = Root().run()
    stream = handler.stream_events(include_children=True)
    found, origins, last = [], list[str](), None
    async for event in stream:
        origins.append(stream.origin)  # type: ignore[attr-defined]
        if isinstance(event, Note):
            found.append(event.text)
        last = event
    assert sorted(found) == ["leaf 10", "leaf 11", "leaf 20", "leaf 21", "middle 1", "middle 2"]
    assert len(set(origins)) == 7
    assert isinstance(last, StopEvent)
    assert (origins[-1], last.result) == (handler.run_id, 62)


def test_a_stream_with_those_of_children_is_read_without_an_event_loop_too() -> None:
    handler = Root().run()
    stream = handler.events(include_children=True, types=[Note, StopEvent])
    origins, found = set(), []
    for event in stream:
        origins.add(stream.origin)  # type: ignore[attr-defined]
        found.append(event.text if isinstance(event, Note) else event.result)
    texts = [text for text in found if isinstance(text, str)]
    assert sorted(texts) == ["leaf 10", "leaf 11", "leaf 20", "leaf 21", "middle 1", "middle 2"]
    assert len(origins) == 7
    assert found[-1] == 62


async def test_a_stream_of_one_class_has_no_others_and_none_of_umbels_own() -> None:
    handler = Root().run()
    assert {type(event) async for event in handler.stream_events(include_children=True, types=[Note])} == {Note}
    kinds = {type(event) async for event in handler.stream_events()}
    assert kinds == {StopEvent}


async def test_the_start_of_each_child_is_in_the_stream_with_umbels_own_events() -> None:
    handler = Root().run()
    started = [
        event async for event in handler.stream_events(expose_internal=True) if isinstance(event, ChildRunStarted)
    ]
    assert {event.run_id for event in started} == {child.run_id for child in await handler.children()}
    assert {event.step for event in started} == {"go"}


def test_a_child_that_ends_before_its_start_is_noted_is_announced_all_the_same(store: Store) -> None:
    run, _ = parent_of(store)
    about = {"child": "child", "status": "completed", "event": driving.event("x").to_bytes()}
    assert store.verb("child_ended", run.run_id, **about)[0] == b"told"
    assert store.verb("child_started", run.run_id, child="child", look=9) == [b"noted"]
    stream = store.client.xrange(run.keys["stream"])
    assert [fields[b"d"].count(b"umbel.ChildRunStarted") for _, fields in stream] == [1]


def test_what_ended_a_child_for_its_parent_is_no_answer_to_a_parent_that_waits_for_it(store: Store) -> None:
    run, _ = parent_of(store)
    assert store.verb("child_started", run.run_id, child="child", look=9) == [b"noted"]
    about = {"child": "child", "status": "cancelled", "event": driving.event("x").to_bytes()}

    reply = store.verb("child_ended", run.run_id, **about, parted=True)
    assert reply[0] == b"again"
    assert store.applied(run.run_id, reply[1]).looks == ("child",)  # it is handled there
    assert store.call(verify, store, run.run_id).holds

    assert store.verb("child_ended", run.run_id, **about)[0] == b"told"  # it could not be handled
    assert store.verb("child_ended", run.run_id, **about, parted=True)[0] == b"known"
