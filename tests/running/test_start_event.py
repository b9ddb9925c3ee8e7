"""`ctx.start_event`: the start event of a run, available in all of its steps."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from umbel import Context, Event, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step

pytestmark = pytest.mark.usefixtures("runtime")


class Order(StartEvent):
    sizes: tuple[int, ...]


class Packed(Event):
    pass


class Named(Workflow):
    @step
    async def pack(self, ev: Order) -> Packed:
        return Packed()

    @step
    def ship(self, ctx: Context, ev: Packed) -> StopEvent:
        return StopEvent(result=shipped(ctx))


def shipped(ctx: Context[Any]) -> list[Any]:
    """Read the start event in the workflow's module but outside the class: that counts as the workflow's code."""
    return [ctx.start_event.sizes, ctx.start_event.get("to")]  # type: ignore[attr-defined]


class Parent(Workflow):
    @step
    async def order(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.run(Named(), sizes=(3,)))


async def test_a_step_sees_what_its_run_began_with_unchanged() -> None:
    assert await Named().run(sizes=(1, 2), to="Kiel") == [(1, 2), "Kiel"]


async def test_a_child_run_sees_its_own() -> None:
    assert await Parent().run() == [(3,), None]


async def test_a_run_of_code_that_does_not_mention_it_does_not_keep_it(runtime: Any) -> None:
    class Elsewhere(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=getattr(ctx, "start_event"))  # noqa: B009

    Elsewhere.__module__ = "somewhere.else"
    handler = Elsewhere().run(secret="x")

    with pytest.raises(WorkflowRuntimeError, match=r"step 'ask' asks for: .*Mention ctx\.start_event there"):
        await handler
    assert "start_event" not in runtime.portal.call(runtime.store.run(handler.run_id)).options


class Aliased(StartEvent):
    src: str = Field(alias="from")
    n: int = Field(default=1, alias="count", validation_alias="number")
    plain: int = 0


class TakesAliases(Workflow):
    @step
    async def begin(self, ev: Aliased) -> StopEvent:
        return StopEvent(result=ev.src)


async def test_the_names_that_an_error_lists_are_those_that_run_takes() -> None:
    with pytest.raises(WorkflowRuntimeError, match=r"from: Field required.* Its fields: from, number, plain\."):
        await TakesAliases().run(n=3)

    assert await TakesAliases().run(**{"from": "x", "number": 2}) == "x"
