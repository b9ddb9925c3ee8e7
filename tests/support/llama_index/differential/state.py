"""The state of runs, and the resources of steps."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field
from workflows import Context, Workflow, step
from workflows.events import (
    StartEvent,
    StopEvent,
)
from workflows.resource import Resource

from .cases import A, case, followed


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
    return await followed(Stateful().run())


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
    return await followed(TypedState().run())


class MissingState(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.get("nothing")
        return StopEvent()


@case
async def state_that_is_missing() -> Any:
    report = await followed(MissingState().run())
    return {key: value for key, value in report.items() if key != "events"}


class Cleared(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("x", 1)
        await ctx.store.clear()
        return StopEvent(result=await ctx.store.get("x", default=None))


@case
async def state_that_is_cleared() -> Any:
    return await followed(Cleared().run())


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
    return await followed(RolledBack().run())


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
    return await followed(Mutating().run())


@case
async def state_that_is_set_before_the_run() -> Any:
    flow = Mutating()
    ctx: Any = Context(flow)
    await ctx.store.set("before", 1)
    await flow.run(ctx=ctx)
    return await ctx.store.get("before")


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
    report = await followed(Supplied().run())
    return [report, MADE]
