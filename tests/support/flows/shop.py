"""An order: what a definition, its steps and its events are looked at with."""

# Steps here are looked at, not run.
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
    """Methods only."""

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
        """Left alone."""
