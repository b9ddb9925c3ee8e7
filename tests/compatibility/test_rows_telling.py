"""Rows 81 and 82: tracing of a run, and verbose output."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from celery import signals

from support.eventually import eventually_async
from umbel import Context, Workflow, retry_policy, step
from umbel.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from umbel.retry_policy import stop_after_attempt, wait_none


class Item(Event):
    n: int


class Packed(Event):
    n: int


class Special(Packed):
    pass


class Asked(InputRequiredEvent):
    question: str


class Answer(HumanResponseEvent):
    text: str


# -- 81 ----------------------------------------------------------------------------------------------------------------


class Seen:
    """Celery's signals for the steps of one run, on which the tracing of Celery tasks is based."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, str, str]] = []

    def of(self, run_id: str) -> list[tuple[str, str, str]]:
        """Return signal, task name and task id, in order."""
        return [(signal, name, task_id) for signal, name, task_id, run in self.all if run == run_id]

    def count(self, run_id: str) -> Counter[tuple[str, str]]:
        """Return how often each signal was sent for each task name."""
        return Counter((signal, name) for signal, name, _ in self.of(run_id))

    def prerun(self, sender: Any, task_id: str, args: Any, **_: Any) -> None:
        self.all.append(("prerun", sender.name, task_id, args[0]))

    def postrun(self, sender: Any, task_id: str, args: Any, state: str, **_: Any) -> None:
        self.all.append((f"postrun {state}", sender.name, task_id, args[0]))

    def failure(self, sender: Any, task_id: str, args: Any, exception: Exception, **_: Any) -> None:
        self.all.append((f"failure {exception}", sender.name, task_id, args[0]))

    def retry(self, sender: Any, request: Any, **_: Any) -> None:
        self.all.append(("retry", sender.name, request.id, request.args[0]))


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    connected = [
        (signals.task_prerun, seen.prerun),
        (signals.task_postrun, seen.postrun),
        (signals.task_failure, seen.failure),
        (signals.task_retry, seen.retry),
    ]
    for signal, receiver in connected:
        signal.connect(receiver, weak=False)
    yield seen
    for signal, receiver in connected:
        signal.disconnect(receiver)


class RowPayment(Workflow):
    """No other workflow has its name, so its tasks have the short name."""

    @step
    async def begin(self, ev: StartEvent) -> Item:
        return Item(n=1)

    @step
    async def charge(self, ctx: Context, ev: Item) -> StopEvent:
        await ctx.wait_for_event(Answer, waiter_event=Asked(question="sure?"))
        return StopEvent()


@pytest.mark.row(81)
async def test_each_execution_of_a_step_is_a_celery_task_and_a_wait_is_no_failure(seen: Seen) -> None:
    handler = RowPayment().run()
    async for event in handler.stream_events():
        if isinstance(event, Asked):
            await handler.send_event(Answer(text="yes"))
    await eventually_async(
        lambda: seen.count(handler.run_id)["postrun SUCCESS", "RowPayment.charge"] == 2, "the last signal came"
    )

    assert seen.count(handler.run_id) == {
        ("prerun", "RowPayment.begin"): 1,
        ("postrun SUCCESS", "RowPayment.begin"): 1,
        ("prerun", "RowPayment.charge"): 2,
        ("postrun SUCCESS", "RowPayment.charge"): 2,
    }
    assert len({task_id for _, _, task_id in seen.of(handler.run_id)}) == 3


class RowRefusal(Workflow):
    @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
    async def refuse(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise ValueError(f"no {ctx.attempt}")


@pytest.mark.row(81)
async def test_a_failed_attempt_is_a_retry_or_a_failure(seen: Seen) -> None:
    handler = RowRefusal().run()
    with pytest.raises(ValueError, match="no 2"):
        await handler
    # The signals of the two attempts arrive in any order: they are sent after the outcomes have been stored.
    await eventually_async(lambda: seen.count(handler.run_id).total() >= 6, "all six signals came")

    assert seen.count(handler.run_id) == {
        ("prerun", "RowRefusal.refuse"): 2,
        ("retry", "RowRefusal.refuse"): 1,
        ("postrun RETRY", "RowRefusal.refuse"): 1,
        ("failure attempt 2: builtins.ValueError: no 2", "RowRefusal.refuse"): 1,
        ("postrun FAILURE", "RowRefusal.refuse"): 1,
    }


# -- 82 ----------------------------------------------------------------------------------------------------------------


class Talks(Workflow):
    @step
    async def split(self, ctx: Context, ev: StartEvent) -> list[Item]:
        ctx.write_event_to_stream(Special(n=7))
        return [Item(n=n) for n in range(2)]

    @step(num_workers=1)
    async def pack(self, ctx: Context, ev: Item) -> Packed | None:
        return Packed(n=ev.n) if ev.n else None

    @step
    async def gather(self, ctx: Context, evs: list[Packed]) -> Answer | None:
        ctx.send_event(Answer(text="done"), step="close")
        return None

    @step
    async def close(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


LINES = [
    "[split:0] started from StartEvent",
    "[tick] publish: Special(n=7)",
    "[split:0] complete with Item x 2",
    "[pack] enqueued (waiting for capacity)",
    "[pack:0] started from Item",
    "[pack:0] complete with no result",
    "[pack:0] started from Item",
    "[pack:0] complete with Packed",
    "[gather:0] started from CollectionReleaseEvent",
    "[tick] add: Answer(text='done') -> close",
    "[gather:0] complete with no result",
    "[close:0] started from Answer",
    "[close:0] complete with StopEvent",
    "[result] StopEvent(result='done')",
]


def are_the_lines(lines: list[str]) -> bool:
    """Return whether these are the lines of a run of `Talks`; processes and threads may print in any order."""
    return sorted(lines) == sorted(LINES) and [x for x in lines if "pack:0" in x] == [x for x in LINES if "pack:0" in x]


@pytest.mark.row(82)
async def test_a_verbose_run_prints_what_its_steps_do(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="umbel.verbose")
    printed: list[str] = []
    assert await Talks().run() == "done"
    assert capsys.readouterr().out == ""

    assert await Talks(verbose=True).run() == "done"

    def all_printed() -> bool:
        printed.extend(capsys.readouterr().out.splitlines())
        return len(printed) >= len(LINES)

    await eventually_async(all_printed, "all lines are printed")
    assert are_the_lines(printed)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
@pytest.mark.row(82)
async def test_an_enabled_logger_gets_the_lines_instead(
    level: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, logger="umbel.verbose")

    def logged() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "umbel.verbose"]

    assert await Talks(verbose=True).run() == "done"
    await eventually_async(lambda: len(logged()) >= len(LINES), "all lines are logged")

    assert are_the_lines([record.getMessage() for record in logged()])
    assert {record.levelno for record in logged()} == {level}
    assert capsys.readouterr().out == ""
