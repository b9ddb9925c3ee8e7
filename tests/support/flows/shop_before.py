"""The code of a worker before a deploy: one workflow is older than in `shop_after`, one is not there yet."""

from __future__ import annotations

from support.flows.everyday import Number
from umbel import StartEvent, StopEvent, Workflow, step


class Order(Workflow):
    """Has the task name of `support.flows.shop_after.Order` and is another workflow."""

    @step
    async def charge(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="charged by the old code")


class Parcel(Workflow):
    """`support.flows.shop_after.Parcel` before its step was renamed."""

    def __init__(self) -> None:
        super().__init__(workflow_name="shop.Parcel")

    @step
    async def pack(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="packed by the old code")


class Bundle(Workflow):
    """`support.flows.shop_after.Bundle` before a step was renamed that comes after one that was not."""

    def __init__(self) -> None:
        super().__init__(workflow_name="shop.Bundle")

    @step
    async def pick(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step
    async def staple(self, ev: Number) -> StopEvent:
        return StopEvent(result="stapled by the old code")
