"""`Workflow(verbose=True)`: the lines that report what the steps do, and where they are written."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    StartEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    Workflow,
    retry_policy,
    step,
)
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed

pytestmark = pytest.mark.usefixtures("runtime")


class Item(Event):
    n: int


class Answer(HumanResponseEvent):
    yes: bool


class Steps(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(3)]

    @step(num_workers=1)
    async def work(self, ev: Item) -> Item | None:
        return None

    @step
    async def join(self, evs: list[Item]) -> StopEvent:
        return StopEvent(result="joined")


class Branching(Steps):
    @step(num_workers=1)
    async def work(self, ev: Item) -> StopEvent | None:
        return StopEvent(result="worked") if ev.n == 2 else None


Printed = Callable[[], list[str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Printed:
    """Return what was printed since the last call; nothing is logged, whatever other tests have set."""
    caplog.set_level(logging.WARNING, logger="umbel.verbose")
    return lambda: capsys.readouterr().out.splitlines()


async def test_starts_ends_and_queueing_are_printed(printed: Printed) -> None:
    await Branching(verbose=True).run()

    assert printed() == [
        "[split:0] started from StartEvent",
        "[split:0] complete with Item x 3",
        "[work] enqueued (waiting for capacity) x 2",
        "[work:0] started from Item",
        "[work:0] complete with no result",
        "[work:0] started from Item",
        "[work:0] complete with no result",
        "[work:0] started from Item",
        "[work:0] complete with StopEvent",
        "[result] StopEvent(result='worked')",
    ]


async def test_a_workflow_that_is_not_verbose_prints_nothing(printed: Printed) -> None:
    await Branching().run()

    assert printed() == []


async def test_failures_and_their_delays_are_printed(printed: Printed) -> None:
    class Flaky(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 1:
                raise ConnectionError("away")
            return StopEvent()

    await Flaky(verbose=True).run()

    assert printed() == [
        "[go:0] started from StartEvent",
        "[go:0] failed with ConnectionError: away (next attempt in 0.01s)",
        "[go:0] started from StartEvent",
        "[go:0] complete with StopEvent",
        "[result] StopEvent()",
    ]


async def test_what_a_step_sends_publishes_and_waits_for_is_printed(printed: Printed) -> None:
    class Talking(Workflow):
        @step
        async def talk(self, ctx: Context, ev: StartEvent) -> StopEvent | Item:
            ctx.write_event_to_stream(Item(n=1, colour="red"))
            ctx.send_event(Item(n=2), step="listen")
            await ctx.wait_for_event(Answer)
            return StopEvent()

        @step
        async def listen(self, ev: Item) -> None:
            return None

    handler = Talking(verbose=True).run()
    async for event in handler.stream_events(expose_internal=True):
        if isinstance(event, StepStateChanged) and (event.name, event.step_state) == ("listen", StepState.NOT_RUNNING):
            await handler.send_event(Answer(yes=True))
    await handler

    lines = printed()
    assert "[tick] publish: Item(n=1, colour='red')" in lines
    assert "[tick] add: Item(n=2) -> listen" in lines
    assert "[talk:0] waiting for Answer" in lines
    assert "[listen:0] complete with no result" in lines


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
async def test_lines_go_to_the_logger_where_it_is_enabled(
    level: str, printed: Printed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, logger="umbel.verbose")

    await Branching(verbose=True).run()

    logged = [record for record in caplog.records if record.name == "umbel.verbose"]
    assert logged[0].getMessage() == "[split:0] started from StartEvent"
    assert {record.levelno for record in logged} == {getattr(logging, level)}
    assert printed() == []
