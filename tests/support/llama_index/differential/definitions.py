"""Definitions that are refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workflows import Workflow, step
from workflows.events import (
    StartEvent,
    StopEvent,
)

from .cases import A, case
from .joins import Returned
from .routing import Chain, TypedFlow


def refused(make: Callable[[], Any]) -> dict[str, str]:
    """Return the error that a mistake raises."""
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
