"""The state of workflows written for LlamaIndex: in-place changes by a step are written with its outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, Field

from umbel import Context, Event, HumanResponseEvent, StartEvent, StopEvent, UnserializableValue, retry_policy, step
from umbel.retry_policy import stop_after_attempt
from umbel.tasks.llama_index.workflow import LlamaIndexWorkflow


@pytest.fixture(autouse=True)
def default_runtime(runtime: Any) -> None:
    """Make the session's deployment the default runtime of every test here."""


class Memory(BaseModel):
    """Like the memory of agents: changed by its methods, never set again."""

    messages: list[str] = Field(default_factory=list)

    def put(self, message: str) -> None:
        self.messages.append(message)


class Next(Event):
    """Passed to the step that reads the state."""


class Changing(LlamaIndexWorkflow):
    """Changes values in place in every possible way."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Next:
        await ctx.store.set("memory", Memory())
        memory = await ctx.store.get("memory")
        memory.put("one")
        (await ctx.store.get("memory")).put("two")
        await ctx.store.set("nested", {"list": [1]})
        (await ctx.store.get("nested.list")).append(2)
        return Next()

    @step
    async def look(self, ctx: Context, ev: Next) -> StopEvent:
        memory, nested = await ctx.store.get("memory"), await ctx.store.get("nested")
        memory.put("three")
        return StopEvent(result=[memory.messages, nested])


async def test_what_a_step_changes_in_place_is_there_for_the_next_and_for_the_caller() -> None:
    handler = Changing().run()
    assert await handler == [["one", "two", "three"], {"list": [1, 2]}]
    assert handler.ctx is not None
    assert (await handler.ctx.store.get("memory")).messages == ["one", "two", "three"]


class Retried(LlamaIndexWorkflow):
    """Changes a value in place and fails at first."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Next:
        await ctx.store.set("memory", Memory())
        return Next()

    @step(retry_policy=retry_policy(stop=stop_after_attempt(2)))
    async def fail(self, ctx: Context, ev: Next) -> StopEvent:
        memory = await ctx.store.get("memory")
        memory.put(f"attempt {ctx.attempt}")
        await ctx.store.set("attempts", ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("the first attempt fails")
        return StopEvent(result=memory.messages)


async def test_an_attempt_that_fails_leaves_what_it_set_and_nothing_that_it_changed_in_place() -> None:
    handler = Retried().run()
    assert await handler == ["attempt 2"]
    assert handler.ctx is not None
    assert await handler.ctx.store.get("attempts") == 2


class Asking(LlamaIndexWorkflow):
    """Changes a value in place and waits."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        notes = await ctx.store.get("notes", default=None)
        if notes is None:
            await ctx.store.set("notes", notes := ["set"])
        notes.append("asked")
        await ctx.wait_for_event(HumanResponseEvent)
        return StopEvent(result=notes)


async def test_a_wait_keeps_what_was_set_and_repeats_what_was_changed_in_place() -> None:
    handler = Asking().run()
    handler.send_event(HumanResponseEvent())
    assert await handler == ["set", "asked"]


class Sending(LlamaIndexWorkflow):
    """Sets what the receiver reads, then sends an event and does not end."""

    @step
    async def send(self, ctx: Context, ev: StartEvent) -> Next | None:
        await ctx.store.set("number", 5)
        ctx.send_event(Next())
        await asyncio.Event().wait()
        return None

    @step
    async def receive(self, ctx: Context, ev: Next) -> StopEvent:
        return StopEvent(result=await ctx.store.get("number"))


async def test_what_was_set_before_an_event_was_sent_is_there_for_its_receiver() -> None:
    assert await Sending().run() == 5


class Slow(LlamaIndexWorkflow):
    """Sets a value and does not end."""

    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("progress", "half")
        await asyncio.Event().wait()
        return StopEvent()


async def test_what_a_long_step_sets_is_seen_while_it_runs() -> None:
    handler = Slow().run()
    assert handler.ctx is not None
    while await handler.ctx.store.get("progress", default=None) != "half":
        await asyncio.sleep(0.05)
    await handler.cancel_run()


class Database(BaseModel):
    """A part that is not serialized."""

    rows: list[str] = Field(default_factory=list)


class Partial(BaseModel):
    """A model with a database."""

    database: Database = Field(default_factory=Database, exclude=True)


class Keeping(LlamaIndexWorkflow):
    """Sets a value that would come back empty."""

    @step
    async def keep(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("partial", Partial())
        return StopEvent()


async def test_a_model_that_does_not_write_all_of_itself_is_refused_by_name() -> None:
    with pytest.raises(UnserializableValue, match="'partial' is a Partial, which does not write its field 'database'"):
        await Keeping().run()
