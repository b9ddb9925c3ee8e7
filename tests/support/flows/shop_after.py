"""The code of a worker after a deploy; see `shop_before`."""

from __future__ import annotations

from typing import Any

from support.flows.everyday import Number
from umbel import StartEvent, StopEvent, Workflow, step


class Order(Workflow):
    @step
    async def charge(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="charged")


class Parcel(Workflow):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, workflow_name="shop.Parcel")

    @step
    async def wrap(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="wrapped")


class Refund(Workflow):
    """Did not exist before the deploy, and neither did its task name."""

    @step
    async def pay_back(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="paid back")


class Bundle(Workflow):
    """Only its first step existed before the deploy."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, workflow_name="shop.Bundle")

    @step
    async def pick(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step
    async def tie(self, ev: Number) -> StopEvent:
        return StopEvent(result="tied")
