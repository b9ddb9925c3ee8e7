"""Rows 73 to 75: snapshots of contexts as JSON; the serializers alone are tested in `test_rows_serializers.py`.

Files in this folder: `snapshot_v2.json`, a snapshot taken by umbel, and `…_reference.json`, in the formats that current
and older versions of LlamaIndex Workflows write.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from support.runs import idle, published
from umbel import Context, Workflow, WorkflowHandler, attach, step
from umbel.context import JsonSerializer, PickleSerializer
from umbel.context.state_store import UnserializableKeyWarning
from umbel.errors import ContextSerdeError
from umbel.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

STORED = Path(__file__).parent / "stored"


def stored(name: str) -> dict[str, Any]:
    """Return a snapshot from a file in this folder."""
    data: dict[str, Any] = json.loads((STORED / f"{name}.json").read_text())
    return data


class Item(Event):
    n: int


class Done(Event):
    n: int


class Asked(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int
    text: str


class Survey(Workflow):
    """A fan-out in which one branch finishes at once and another one asks."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Item]:
        await ctx.store.set("topic", ev.topic)
        await ctx.store.set("answers", {})
        return [Item(n=0), Item(n=1)]

    @step
    async def ask(self, ctx: Context, ev: Item) -> Done:
        if ev.n == 1:
            wanted = {"n": ev.n}
            answer = await ctx.wait_for_event(Answer, waiter_event=Asked(n=ev.n), requirements=wanted, timeout=None)
            await ctx.store.set(f"answers.{ev.n}", answer.text)
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        state = await ctx.store.get_state()
        return StopEvent(result=[state.to_dict(), [ev.n for ev in evs]])


class Gather(Workflow):
    """Ends when it has three items."""

    @step
    async def begin(self, ev: StartEvent) -> Item:
        return Item(n=0)

    @step(num_workers=1)
    async def gather(self, ctx: Context, ev: Item) -> StopEvent | None:
        got = ctx.collect_events(ev, [Item] * 3)
        return None if got is None else StopEvent(result=[[each.n for each in got], await ctx.store.get("n")])


class Group(Event):
    of: list[int]


class Part(Event):
    n: int


class Subtotal(Event):
    n: int


class Left(HumanResponseEvent):
    n: int


class Right(Event):
    n: int


class Go(HumanResponseEvent):
    pass


class Joins(Workflow):
    """All kinds of joins: of nested fan-outs, of two parameters, and `collect_events`."""

    @step
    async def groups(self, ev: StartEvent) -> list[Group]:
        return []

    @step
    async def items(self, ev: Group) -> list[Part]:
        return [Part(n=n) for n in ev.of]

    @step
    async def inner(self, ctx: Context, evs: list[Part]) -> Subtotal:
        await ctx.store.set(f"retries.{len(evs)}-{evs[0].n}", ctx.retry_info().retry_number)
        return Subtotal(n=sum(ev.n for ev in evs))

    @step
    async def outer(self, evs: list[Subtotal]) -> Done:
        return Done(n=sum(ev.n for ev in evs))

    @step
    async def pair(self, left: Left, right: Right) -> Done:
        return Done(n=left.n + right.n)

    @step(num_workers=1)
    async def last(self, ctx: Context, ev: Done | Go) -> StopEvent | Right | None:
        if isinstance(ev, Go):
            return Right(n=4)
        got = ctx.collect_events(ev, [Done] * 4)
        retries = await ctx.store.get("retries", default=None)
        return None if got is None else StopEvent(result=[sorted(each.n for each in got), retries])


async def waiting_survey() -> WorkflowHandler:
    """Return a run of `Survey` whose first branch has reached the join and whose second one waits."""
    handler = Survey(timeout=None).run(topic="ships")
    await idle(attach(handler.run_id))
    return handler


def resumed(workflow: Workflow, data: dict[str, Any]) -> WorkflowHandler:
    """Return a new run that continues from a snapshot."""
    return workflow.run(ctx=Context.from_dict(workflow, data))


async def answered(handler: WorkflowHandler) -> Any:
    """Return the result of a run of `Survey` after answering its question, which may precede the snapshot."""
    await handler.send_event(Answer(n=1, text="steam"))
    return await handler


# -- 73 ----------------------------------------------------------------------------------------------------------------

TOP = {
    "version",
    "state",
    "is_running",
    "workers",
    "stream_seq",
    "work_item_seq",
    "streams",
    "collection_release_states",
    "elapsed_alive",
}
WORKER = {"queue", "in_progress", "collected_events", "static_collect_events", "collected_waiters"}
SHARED = {"event", "bound_events", "scope_path", "collection_release_payload", "work_item_id"}
ATTEMPT = SHARED | {
    "attempts",
    "first_attempt_at",
    "last_exception",
    "last_failed_at",
    "recovery_counts",
    "not_before",
}
WAITER = SHARED | {"waiter_id", "waiting_for_event", "has_requirements", "resolved_event"}
STREAM = {"stream_id", "source_step", "scope_path", "open_work_items", "accepting_binding_ids"}


def without_ids_and_times(data: dict[str, Any]) -> Any:
    """Return a snapshot without what varies between runs: ids are replaced by their order of appearance, times by 0."""
    text = json.dumps(data, sort_keys=True)
    streams = list(data["streams"])
    items = [each["work_item_id"] for worker in data["workers"].values() for each in worker["collected_waiters"]]
    for name, ids in (("stream", streams), ("item", items)):
        for number, found in enumerate(dict.fromkeys(ids)):
            text = text.replace(found, f"{name} {number}")
    text = re.sub(r'("(?:first_attempt_at|timeout_at)": )[0-9.]+', r"\1 0", text)
    return json.loads(re.sub(r'("digest": )"[0-9a-f]{64}"', r'\1""', text))


@pytest.mark.row(73)
async def test_a_snapshot_has_the_keys_of_version_2() -> None:
    handler = await waiting_survey()
    data = json.loads(json.dumps(handler.ctx.to_dict()))

    assert set(data) == TOP | {"umbel"}
    assert (data["version"], data["is_running"], set(data["workers"])) == (2, True, {"begin", "ask", "join"})
    assert data["state"] == {
        "store_type": "in_memory",
        "state_type": "DictState",
        "state_module": "umbel.context.state_store",
        "state_data": {"_data": {"topic": '"ships"', "answers": "{}"}},
    }
    assert all(set(worker) >= WORKER for worker in data["workers"].values())
    (waiter,) = data["workers"]["ask"]["collected_waiters"]
    assert set(waiter) == WAITER | {"umbel"}
    assert set(waiter["umbel"]["attempt"]) == ATTEMPT | {"umbel"}
    assert (waiter["waiting_for_event"], waiter["has_requirements"]) == (f"{__name__}.Answer", True)
    assert json.loads(waiter["event"]) == {
        "__is_pydantic": True,
        "value": {"n": 1},
        "qualified_name": f"{__name__}.Item",
    }
    ((stream_id, stream),) = data["streams"].items()
    binding = f"begin->join:{__name__}.Done:All:nearest"
    assert set(stream) == STREAM | {"umbel"}
    assert (stream["stream_id"], stream["source_step"], stream["open_work_items"]) == (stream_id, "begin", 1)
    assert stream["accepting_binding_ids"] == [binding]
    ((key, gathering),) = data["collection_release_states"].items()
    assert key == f"{stream_id}:{binding}"
    assert set(gathering) == {"binding_id", "stream_id", "buffer", "released"}
    assert [json.loads(text)["value"] for text in gathering["buffer"]] == [{"n": 0}]
    await answered(handler)


@pytest.mark.row(73)
async def test_the_stored_snapshot_is_what_is_written_today_and_is_continued() -> None:
    original = await waiting_survey()
    today = original.ctx.to_dict()
    assert today.pop("elapsed_alive") >= 0, "the stored one is of a release that did not write it"
    assert without_ids_and_times(today) == without_ids_and_times(stored("snapshot_v2"))
    await original.cancel_run()

    state, order = await answered(resumed(Survey(timeout=None), stored("snapshot_v2")))

    assert state == {"topic": "ships", "answers": {"1": "steam"}}
    assert order == [0, 1]


@pytest.mark.row(73)
async def test_a_snapshot_of_llamaindex_workflows_is_continued() -> None:
    """One branch has arrived, one waits (and asks again, since the snapshot lacks its requirements), one is queued."""
    handler = resumed(Survey(timeout=None), stored("snapshot_v2_reference"))

    state, order = await answered(handler)

    assert state == {"topic": "trains", "answers": {"1": "steam"}}
    assert (order[0], sorted(order)) == (0, [0, 1, 2])


@pytest.mark.row(73)
async def test_joins_of_all_kinds_in_such_a_snapshot_are_continued() -> None:
    """A gathering step at its second attempt, a group to be fanned out, a full set, half a set, a filled buffer."""
    sums, retries = await resumed(Joins(), stored("snapshot_v2_joins_reference"))

    assert sums == [0, 14, 23, 100 + (1 + 2) + (5 + 6)]
    assert retries == {"2-1": 1, "2-5": 0}


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.row(73)
async def test_snapshots_of_older_versions_are_continued(version: int) -> None:
    workflow = Gather()
    handler = resumed(workflow, stored(f"snapshot_v{version}_reference"))

    numbers, n = await handler

    assert (sorted(numbers), n) == ([1, 2, 3], 7)


@pytest.mark.parametrize("version", [3, 99, -1, "2", 2.0, True])
@pytest.mark.row(73)
def test_other_versions_are_refused(version: Any) -> None:
    data = stored("snapshot_v2_reference") | {"version": version}

    with pytest.raises(ContextSerdeError, match=f"has version {version!r}"):
        Context.from_dict(Survey(), data)


@pytest.mark.parametrize("data", [{"version": 2, "workers": []}, {"version": 2, "is_running": "perhaps"}, [], "text"])
@pytest.mark.row(73)
def test_what_is_no_snapshot_is_refused(data: Any) -> None:
    with pytest.raises(ContextSerdeError):
        Context(Survey(), previous_context=data)


@pytest.mark.row(73)
def test_work_for_a_removed_step_and_a_damaged_snapshot_are_refused() -> None:
    """LlamaIndex Workflows silently drops steps that no longer exist, and does not notice damage."""
    with pytest.raises(ContextSerdeError, match="unfinished work for step 'ask', which workflow"):
        Context.from_dict(Gather(), stored("snapshot_v2_reference"))

    data = stored("snapshot_v2")
    data["workers"]["ask"]["collected_waiters"].clear()
    with pytest.raises(ContextSerdeError, match="does not match its digest"):
        Context.from_dict(Survey(), data)


# -- 74 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(74)
async def test_a_snapshot_in_the_middle_continues_without_a_start_event() -> None:
    calls: list[str] = []
    under_way, go_on = asyncio.Event(), asyncio.Event()

    class Two(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            calls.append("first")
            return Item(n=ev.n)

        @step
        async def second(self, ev: Item) -> StopEvent:
            calls.append("second")
            under_way.set()
            await go_on.wait()
            return StopEvent(result=ev.n)

    workflow = Two(timeout=None)
    original = workflow.run(n=5)
    await under_way.wait()
    data = original.ctx.to_dict()
    assert [len(data["workers"][name]["in_progress"]) for name in ("first", "second")] == [0, 1]

    copy = resumed(workflow, data)
    go_on.set()

    assert (await original, await copy) == (5, 5)
    assert calls == ["first", "second", "second"]  # the interrupted step is executed again, the finished one is not


@pytest.mark.row(74)
async def test_new_input_is_answered_and_what_was_unfinished_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In LlamaIndex Workflows, a context with unfinished work continues it and ignores the input."""
    workflow = Survey(timeout=None)
    with caplog.at_level("WARNING", "umbel.context"):
        handler = workflow.run(ctx=Context.from_dict(workflow, stored("snapshot_v2")), topic="planes")
    assert "are dropped" in caplog.text

    assert await answered(handler) == [{"topic": "planes", "answers": {"1": "steam"}}, [0, 1]]


# -- 75 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(75)
async def test_a_snapshot_is_written_and_read_with_a_serializer_of_choice() -> None:
    workflow = Survey(timeout=None)
    ctx = Context(workflow)
    await ctx.store.set("seen", ["Ada"])
    handler = workflow.run(ctx=ctx, topic="ships")
    await published(handler, Asked)
    data = handler.ctx.to_dict(serializer=PickleSerializer())
    await handler.cancel_run()

    restored = workflow.run(ctx=Context.from_dict(workflow, data, serializer=PickleSerializer()))
    state, _ = await answered(restored)

    assert state == {"topic": "ships", "answers": {"1": "steam"}, "seen": ["Ada"]}


@pytest.mark.row(75)
async def test_a_key_called_memory_that_cannot_be_written_stays_behind_with_a_warning() -> None:
    store = Context(Survey()).store
    await store.set("memory", threading.Lock())
    await store.set("n", 1)
    with pytest.warns(UnserializableKeyWarning, match="memory"):
        assert store.to_dict(JsonSerializer())["state_data"] == {"_data": {"n": "1"}}

    await store.set("client", threading.Lock())
    with pytest.raises(ValueError, match="'client'"), pytest.warns(UnserializableKeyWarning):
        store.to_dict(JsonSerializer())
