"""The code of a worker before a deploy: some workflows are older than in `shop_after`, one does not exist yet."""

from __future__ import annotations

from support.flows.everyday import Number
from umbel import StartEvent, StopEvent, Workflow, step


class Order(Workflow):
    """Has the task name of `support.flows.shop_after.Order`, but is another workflow."""

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
    """`support.flows.shop_after.Bundle` before its second step was renamed."""

    def __init__(self) -> None:
        super().__init__(workflow_name="shop.Bundle")

    @step
    async def pick(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step
    async def staple(self, ev: Number) -> StopEvent:
        return StopEvent(result="stapled by the old code")
