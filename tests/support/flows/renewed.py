"""A workflow whose event gains a required field in a deploy (`RENEWED` in the environment) while runs are active."""

from __future__ import annotations

import os

from umbel import Event, StartEvent, StepFailedEvent, StopEvent, Workflow, catch_error, step

if "RENEWED" in os.environ:

    class Changed(Event):
        n: int
        more: int

else:

    class Changed(Event):  # type: ignore[no-redef]
        n: int


class Renewed(Workflow):
    """`go` waits in its own queue for the workers of the deploy."""

    @step
    async def begin(self, ev: StartEvent) -> Changed:
        return Changed(n=1)

    @step(queue="later")
    async def go(self, ev: Changed) -> StopEvent:
        return StopEvent()

    @catch_error
    async def caught(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent()
