"""Steps that fail, are retried, are recovered; runs that end early."""

from __future__ import annotations

import asyncio
from typing import Any

from workflows import Context, Workflow, catch_error, step
from workflows.events import (
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from workflows.retry_policy import (
    ConstantDelayRetryPolicy,
    retry_if_exception_type,
    retry_policy,
    stop_after_attempt,
    wait_fixed,
)

from .cases import A, B, case, followed


class Failing(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError("on purpose")


@case
async def a_step_that_fails() -> Any:
    report = await followed(Failing().run())
    for _, fields in report["events"]:
        fields.pop("elapsed_seconds", None)
        fields.pop("exception", None)
    return report


class Retried(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
        number = ctx.retry_info().retry_number
        if number < 2:
            raise ValueError(f"attempt {number}")
        return StopEvent(result=number)


@case
async def a_retry() -> Any:
    return await followed(Retried().run())


class Exhausted(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=0))
    async def flaky(self, ev: StartEvent) -> StopEvent:
        raise KeyError("never")


@case
async def retries_that_are_exhausted() -> Any:
    report = await followed(Exhausted().run())
    return {key: value for key, value in report.items() if key != "events"} | {"n": len(report["events"])}


class OnlyOs(Workflow):
    @step(retry_policy=retry_policy(retry=retry_if_exception_type(OSError), stop=stop_after_attempt(5)))
    async def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise OSError("again") if ctx.retry_info().retry_number == 0 else ValueError("not again")


@case
async def a_retry_for_some_errors_only() -> Any:
    report = await followed(OnlyOs().run())
    return {key: value for key, value in report.items() if key != "events"}


class Recovering(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> A:
        return A(n=6)

    @step
    async def fail(self, ev: A) -> StopEvent:
        raise RuntimeError("broken")

    @catch_error
    async def recover(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(
            result=[ev.step_name, type(ev.exception).__name__, str(ev.exception), ev.attempts, ev.input_event.n]
        )


@case
async def a_recovery() -> Any:
    return await followed(Recovering().run())


class Scoped(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> A:
        raise RuntimeError("first")

    @step
    async def second(self, ev: A) -> StopEvent:
        raise RuntimeError("second")

    @catch_error(for_steps=["begin"])
    async def of_begin(self, ev: StepFailedEvent) -> A:
        return A(n=1)

    @catch_error
    async def of_others(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result=ev.step_name)


@case
async def recoveries_of_some_steps_and_of_the_rest() -> Any:
    return await followed(Scoped().run())


class RecoveredMember(Workflow):
    @step
    async def out(self, ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(3)]

    @step
    async def work(self, ev: A) -> B:
        if ev.n == 1:
            raise ValueError("one")
        return B(n=ev.n)

    @catch_error
    async def recover(self, ev: StepFailedEvent) -> B:
        return B(n=100)

    @step
    async def join(self, evs: list[B]) -> StopEvent:
        return StopEvent(result=sorted(ev.n for ev in evs))


@case
async def a_recovered_member_of_a_fan_out() -> Any:
    return await followed(RecoveredMember().run())


class WrongReturn(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return "text"  # type: ignore[return-value]


@case
async def a_step_that_returns_no_event() -> Any:
    report = await followed(WrongReturn().run())
    return {key: value for key, value in report.items() if key != "events"}


class Endless(Workflow):
    @step
    async def wait(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()


@case
async def a_run_that_takes_too_long() -> Any:
    return await followed(Endless(timeout=0.5).run())


@case
async def a_run_that_is_cancelled() -> Any:
    handler = Endless().run()
    await asyncio.sleep(0.3)
    await handler.cancel_run()
    try:
        await handler
    except Exception as error:
        return type(error).__name__
    return "no error"
