"""Rows 69 to 72: `ctx.store` before a run, in its steps, and from outside."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, Field

from umbel import Context, Runtime, Workflow, step
from umbel.context.state_store import DictState, InMemoryStateStore
from umbel.errors import UnserializableValue
from umbel.events import Event, HumanResponseEvent, StartEvent, StopEvent


class Done(HumanResponseEvent):
    pass


class Item(Event):
    n: int


class Held(Workflow):
    """A run that continues until it is stopped."""

    @step
    async def hold(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Done)
        return StopEvent()


Use = Callable[[Any], Awaitable[None]]


async def before_a_run(use: Use) -> None:
    await use(Context(Held()).store)


async def in_a_step(use: Use) -> None:
    class Uses(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await use(ctx.store)
            return StopEvent()

    await Uses().run()


async def beside_a_run(use: Use) -> None:
    async with held_run() as ctx:
        await use(ctx.store)


@asynccontextmanager
async def held_run() -> AsyncIterator[Context]:
    """Yield the context of a running run."""
    handler = Held().run()
    yield handler.ctx
    await handler.send_event(Done())
    await handler


everywhere = pytest.mark.parametrize("there", [before_a_run, in_a_step, beside_a_run], ids=lambda there: there.__name__)


# -- 69 ----------------------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.row(69)
async def test_dotted_paths_defaults_and_what_is_missing(there: Callable[[Use], Awaitable[None]]) -> None:
    async def use(store: Any) -> None:
        await store.set("n", 0)
        await store.set("cart.owner.name", "Ada")  # creates the missing dicts
        await store.set("cart.items", [{"price": 5}, {"price": 7}])
        await store.set("cart.items.1.price", 8)
        await store.set("items", "called like a method")

        for path, value in {
            "n": 0,
            "cart.owner": {"name": "Ada"},
            "cart.owner.name": "Ada",
            "cart.items.0.price": 5,
            "cart.items.1.price": 8,
            "items": "called like a method",
        }.items():
            assert await store.get(path) == value
            assert await store.get(path, default="unused") == value
        for path in ("zz", "n.deeper", "cart.items.2", "cart.owner.age", "cart.items.first"):
            with pytest.raises(ValueError, match=f"^Path {path!r} not found in state$"):
                await store.get(path)
            assert await store.get(path, default=None) is None
        assert (await store.get("")).to_dict() == (await store.get_state()).to_dict()
        with pytest.raises(ValueError, match="names no key"):
            await store.set("", 1)
        with pytest.raises(ValueError, match="1001 segments"):
            await store.set(".".join("a" * 1001), 1)

    await there(use)


@pytest.mark.row(69)
async def test_a_value_that_redis_cannot_hold_is_refused_by_name_and_all_that_is_read_is_a_copy() -> None:
    """In LlamaIndex Workflows, the state holds any value of its one process."""

    async def use(store: Any) -> None:
        with pytest.raises(UnserializableValue, match="'cart.lock' holds a _thread.lock.*Resource"):
            await store.set("cart", {"lock": threading.Lock()})
        await store.set("list", [1])
        (await store.get("list")).append(2)
        (await store.get_state())["list"].append(3)
        assert await store.get("list") == [1]

    await in_a_step(use)


# -- 70 ----------------------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.row(70)
async def test_an_edit_is_isolated_and_rolled_back_and_refuses_writers(
    there: Callable[[Use], Awaitable[None]],
) -> None:
    async def fail(store: Any) -> None:
        async with store.edit_state() as state:
            state["list"].append("lost")
            raise KeyError("mine")

    async def use(store: Any) -> None:
        await store.set("list", [])
        async with store.edit_state() as state:
            state["list"].append("kept")
            assert await store.get("list") == []  # readers see the previous state, inside the block too
        with pytest.raises(KeyError, match="mine"):
            await fail(store)
        assert await store.get("list") == ["kept"]

        async with store.edit_state():
            for write in (lambda: store.set("n", 1), lambda: store.set_state(DictState()), store.clear):
                with pytest.raises(RuntimeError) as caught:
                    await write()
                assert str(caught.value) == "writer called inside edit_state: mutate the yielded state instead"
        assert (await store.get_state()).to_dict() == {"list": ["kept"]}

    await there(use)


ELSEWHERE = """
import asyncio, sys, umbel
async def main():
    store = umbel.attach(sys.argv[1]).ctx.store
    await store.set("there", True)
    for _ in range(50):
        async with store.edit_state() as state:
            state.n += 1
asyncio.run(main())
"""


@pytest.mark.row(70)
async def test_two_processes_lose_no_edit_of_each_other(runtime: Runtime) -> None:
    url = runtime.settings.redis_url
    assert url is not None
    async with held_run() as ctx:
        await ctx.store.set("n", 0)
        command = [sys.executable, "-W", "error", "-c", ELSEWHERE, ctx.run_id]
        other = await asyncio.to_thread(
            subprocess.Popen, command, env={"UMBEL_REDIS_URL": url}, stderr=subprocess.PIPE, text=True
        )
        try:
            while not await ctx.store.get("there", default=False) and other.poll() is None:
                await asyncio.sleep(0.005)
            for _ in range(50):
                async with ctx.store.edit_state() as state:
                    state.n += 1
            _, problems = await asyncio.to_thread(other.communicate, timeout=110)
        finally:
            other.kill()

        assert (other.returncode, problems) == (0, "")
        assert await ctx.store.get("n") == 100


# -- 71 ----------------------------------------------------------------------------------------------------------------


class Base(BaseModel):
    count: int = 0


class Derived(Base):
    names: list[str] = Field(default_factory=list)


class Unrelated(BaseModel):
    other: int = 0


class Needy(BaseModel):
    must: int


class Typed(Workflow):
    """Its steps declare classes of one inheritance line: the state has the most derived class."""

    @step
    async def first(self, ctx: Context[Base], ev: StartEvent) -> Item:
        async with ctx.store.edit_state() as state:
            state.count += 1
        return Item(n=1)

    @step
    async def second(self, ctx: Context[Derived], ev: Item) -> StopEvent:
        await ctx.store.set("names", ["Ada"])
        with pytest.raises(ValueError, match="valid integer"):
            await ctx.store.set("count", "many")
        with pytest.raises(ValueError, match="unknown"):
            await ctx.store.set("unknown", 1)
        with pytest.raises(ValueError, match="State must be of type Derived"):
            await ctx.store.set_state(Unrelated())
        await ctx.store.set_state(Base(count=5))  # a parent's state: its fields are merged
        return StopEvent(result=await ctx.store.get_state())


@pytest.mark.row(71)
async def test_the_state_is_of_the_most_derived_class_and_keeps_to_it() -> None:
    handler = Typed().run()

    assert await handler == Derived(count=5, names=["Ada"])
    assert await handler.ctx.store.get_state() == Derived(count=5, names=["Ada"])


@pytest.mark.row(71)
async def test_unrelated_state_classes_in_one_workflow_are_an_error() -> None:
    class Mixed(Workflow):
        @step
        async def first(self, ctx: Context[Base], ev: StartEvent) -> Item:
            return Item(n=1)

        @step
        async def second(self, ctx: Context[Unrelated], ev: Item) -> StopEvent:
            return StopEvent()

    with pytest.raises(ValueError, match="must share one state.*does not derive from"):
        Mixed().run()
    with pytest.raises(ValueError, match="must share one state"):
        Context(Mixed())


@pytest.mark.row(71)
async def test_clear_brings_back_the_defaults_of_the_class() -> None:
    class Clears(Workflow):
        @step
        async def go(self, ctx: Context[Derived], ev: StartEvent) -> StopEvent:
            await ctx.store.set_state(Derived(count=3, names=["Ada"]))
            await ctx.store.clear()
            return StopEvent(result=await ctx.store.get_state())

    class CannotClear(Workflow):
        @step
        async def go(self, ctx: Context[Needy], ev: StartEvent) -> StopEvent:
            await ctx.store.set_state(Needy(must=1))
            await ctx.store.clear()
            return StopEvent()

    assert await Clears().run() == Derived()
    with pytest.raises(ValueError, match="^State must have defaults for all fields"):
        await CannotClear().run()


@pytest.mark.row(71)
async def test_a_custom_state_has_the_same_rules() -> None:
    store = InMemoryStateStore(Derived(count=1))
    await store.set_state(Base(count=2))
    assert await store.get_state() == Derived(count=2)
    with pytest.raises(ValueError, match="State must be of type Derived"):
        await store.set_state(Unrelated())
    await store.clear()
    assert await store.get_state() == Derived()


# -- 72 ----------------------------------------------------------------------------------------------------------------


class Counts(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        n = await ctx.store.get("n", default=0) + 1
        await ctx.store.set("n", n)
        return StopEvent(result=n)


@pytest.mark.row(72)
async def test_a_context_that_is_used_again_keeps_its_state() -> None:
    workflow = Counts()
    ctx = Context(workflow)

    assert [await workflow.run(ctx=ctx), await workflow.run(ctx=ctx)] == [1, 2]


@pytest.mark.row(72)
async def test_what_is_seeded_before_the_run_is_seen_by_its_steps_and_after_it() -> None:
    workflow = Counts()
    ctx = Context(workflow)
    await ctx.store.set("n", 41)
    await ctx.store.set("kept", {"a": 1})

    assert await workflow.run(ctx=ctx) == 42
    assert (await ctx.store.get_state()).to_dict() == {"n": 42, "kept": {"a": 1}}
