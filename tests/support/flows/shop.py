"""An example workflow for tests of definitions, steps and events."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Any

from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import (
    Event,
    StartEvent,
    StopEvent,
)
from umbel.tasks.steps.decorators import step


class Paid(Event):
    pass


class Ordered(StartEvent):
    number: int = 0


class Shipped(StopEvent):
    pass


class Order(Workflow):
    """Its steps are methods only."""

    def __init__(self, greeting: str = "hello", **options: Any) -> None:
        self.greeting = greeting
        super().__init__(**options)

    @step
    def ship(self, ev: Paid) -> Shipped:
        return Shipped(text=self.greeting)

    @step
    async def charge(self, ev: Ordered) -> Paid | None:
        return Paid()

    def not_a_step(self) -> None:
        """Not decorated, so not a step."""
