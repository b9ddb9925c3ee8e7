"""Chaos workflows that serve one fault each: slow, limited, hanging, waiting or crowded steps."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import Any, ClassVar

from support.chaos.effect_log import began, deposit
from support.chaos.flow_events import (
    Broken,
    Chaotic,
    Outcome,
    SlowTask,
    Started,
    Task,
)
from umbel import (
    Context,
    StopEvent,
    retry_policy,
    step,
)
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed


class Held(Chaotic):
    """A plain step whose first attempt takes a chosen time, for faults that must hit a step while it executes."""

    KIND = "held"

    @step
    async def begin(self, ctx: Context, ev: Started) -> SlowTask:
        began(ctx, "begin")
        return SlowTask(n=ev.n, seconds=ev.seconds)

    @step
    def held(self, ctx: Context, ev: SlowTask) -> StopEvent:
        began(ctx, "held")
        if ctx.attempt == 1:
            time.sleep(ev.seconds)
        deposit(ctx)
        return StopEvent(result=ev.n)

    @staticmethod
    def expected(n: int) -> Any:
        return n

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, held=1)


class Limited(Chaotic):
    """A plain step with a time limit, retried when it exceeds it."""

    KIND = "limited"

    @step(timeout=1.0, retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(20)))
    def limited(self, ctx: Context, ev: Started) -> StopEvent:
        began(ctx, "limited")
        time.sleep(ev.seconds)
        return StopEvent(result=ev.n)

    @staticmethod
    def expected(n: int) -> Any:
        return n

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(limited=1)


class Hangs(Chaotic):
    """A plain step whose first attempt no time limit can interrupt: another process has to notice."""

    KIND = "hanging"

    @step(timeout=0.5, retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(20)))
    def hang(self, ctx: Context, ev: Started) -> StopEvent:
        began(ctx, "hang")
        if ctx.attempt == 1:
            until = time.monotonic() + 5.0
            while time.monotonic() < until:
                with suppress(BaseException):
                    time.sleep(0.05)
        return StopEvent(result=ev.n)

    @staticmethod
    def expected(n: int) -> Any:
        return n

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(hang=1)


class Few(Chaotic):
    """Only two of its runs may execute at the same time."""

    KIND = "few"
    OPTIONS: ClassVar[dict[str, Any]] = {"num_concurrent_runs": 2}

    @step
    async def begin(self, ctx: Context, ev: Started) -> Task:
        began(ctx, "begin")
        return Task(n=ev.n)

    @step
    def end(self, ctx: Context, ev: Task) -> StopEvent:
        began(ctx, "end")
        return StopEvent(result=ev.n)

    @staticmethod
    def expected(n: int) -> Any:
        return n

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, end=1)


class Patient(Chaotic):
    """Fails twice and waits a second before each retry: long enough for a fault in between."""

    KIND = "back-off"

    @step(retry_policy=retry_policy(wait=wait_fixed(1.0), stop=stop_after_attempt(3)))
    async def falter(self, ctx: Context, ev: Started) -> StopEvent:
        began(ctx, "falter", failures=ctx.retry_info().retry_number)
        if ctx.retry_info().retry_number < 2:
            raise Broken("not yet")
        return StopEvent(result=ctx.retry_info().retry_number)

    @staticmethod
    def expected(n: int) -> Any:
        return 2

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(falter=1)


class Crowd(Chaotic):
    """A wide fan-out of steps that do almost nothing: their commits race for the fan-in."""

    KIND = "crowd"

    @step
    async def begin(self, ctx: Context, ev: Started) -> list[Task]:
        began(ctx, "begin")
        return [Task(n=n) for n in range(ev.n)]

    @step(num_workers=1000)
    async def work(self, ctx: Context, ev: Task) -> Outcome:
        began(ctx, "work", n=ev.n)
        return Outcome(n=ev.n)

    @step
    async def gather(self, ctx: Context, evs: list[Outcome]) -> StopEvent:
        began(ctx, "gather", members=sorted(ev.n for ev in evs))
        return StopEvent(result=sorted(ev.n for ev in evs))

    @staticmethod
    def expected(n: int) -> Any:
        return list(range(n))

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, work=n, gather=1)
