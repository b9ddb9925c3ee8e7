"""Error trackers and tracers get one error per failed step, with its own exception and tags."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from celery import signals

from support.flows import tagging as flows
from support.processes.driving import Deploy
from umbel import Context, Event, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.retry_policy import stop_after_attempt, wait_fixed

_tag: ContextVar[str] = ContextVar("tag", default="none")


class Tracker(logging.Handler):
    """Creates an event for each error, as error trackers do."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.events: list[tuple[BaseException | None, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append((record.exc_info[1] if record.exc_info else None, _tag.get()))


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    tracker = Tracker()
    logging.getLogger().addHandler(tracker)
    yield tracker
    logging.getLogger().removeHandler(tracker)


class Declined(Exception):
    pass


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_step_that_failed_finally_is_one_error_with_its_exception_and_what_it_had_set(
    tracker: Tracker, is_async: bool
) -> None:
    class Charges(Workflow):
        if is_async:

            @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
            async def charge(self, ctx: Context, ev: StartEvent) -> StopEvent:
                _tag.set(f"attempt {ctx.attempt}")
                raise Declined("no funds")

        else:

            @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
            def charge(self, ctx: Context, ev: StartEvent) -> StopEvent:
                _tag.set(f"attempt {ctx.attempt}")
                raise Declined("no funds")

    with pytest.raises(Declined):
        await Charges().run()
    [(error, tag)] = tracker.events
    assert isinstance(error, Declined)
    assert tag == "attempt 2"


def test_what_a_step_sets_in_its_context_reaches_no_other_step(deploy: Deploy) -> None:
    deployment = deploy()
    deployment.worker("one", "support.flows.tagging", pool="asyncio", concurrency=4).wait_ready()
    for n in range(3):
        assert deployment.start(flows.Tagging, n=n).result(40) == {f"second of {n}": "set"}


class Next(Event):
    pass


class TracedSteps(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Next:
        return Next()

    @step
    async def end(self, ev: Next) -> StopEvent:
        return StopEvent()


@pytest.mark.usefixtures("runtime")
async def test_a_message_is_sent_in_the_context_of_the_step_that_it_follows_from() -> None:
    """A tracer finds the parent of the next span in this context."""
    sent: dict[str, str] = {}

    def before_start(task_id: str, **_: object) -> None:
        _tag.set("of a step")

    def before_sending(sender: str, **_: object) -> None:
        sent[sender] = _tag.get()

    signals.task_prerun.connect(before_start)
    signals.before_task_publish.connect(before_sending)
    try:
        await TracedSteps().run()
    finally:
        signals.task_prerun.disconnect(before_start)
        signals.before_task_publish.disconnect(before_sending)
    assert sent == {"TracedSteps.begin": "none", "TracedSteps.end": "of a step"}
