"""The workflows of a mixed load. Each step records that it has begun.

A workflow's `expected` gives the result for its arguments, and `commits` gives how often each step must be
committed: the checker compares both with Redis and the effect log.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from support.chaos.effect_log import began, deposit
from support.chaos.flow_events import (
    Answer,
    Ask,
    Asked,
    Broken,
    Chaotic,
    Even,
    Group,
    Odd,
    Outcome,
    SlowTask,
    Started,
    Sum,
    Task,
)
from support.chaos.wider_flows import Expires, Family, Races, Talks, Tells
from umbel import (
    Context,
    StepFailedEvent,
    StopEvent,
    catch_error,
    retry_policy,
    step,
)
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed


class Links(Chaotic):
    """A chain that alternates async and plain steps, each of which books at the bank."""

    KIND = "chain"

    @step
    async def begin(self, ctx: Context, ev: Started) -> Odd:
        began(ctx, "begin")
        return Odd(n=0, left=ev.n, seconds=ev.seconds)

    @step
    async def odd(self, ctx: Context, ev: Odd) -> Even | StopEvent:
        began(ctx, "odd", n=ev.n)
        await asyncio.sleep(ev.seconds)
        deposit(ctx)
        return StopEvent(result=ev.n) if ev.left <= 1 else Even(n=ev.n + 1, left=ev.left - 1, seconds=ev.seconds)

    @step
    def even(self, ctx: Context, ev: Even) -> Odd | StopEvent:
        began(ctx, "even", n=ev.n)
        time.sleep(ev.seconds)
        deposit(ctx)
        return StopEvent(result=ev.n) if ev.left <= 1 else Odd(n=ev.n + 1, left=ev.left - 1, seconds=ev.seconds)

    @staticmethod
    def expected(n: int) -> Any:
        return n - 1

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, odd=(n + 1) // 2, even=n // 2)


class Spread(Chaotic):
    """A fan-out over async and plain steps, and its typed fan-in."""

    KIND = "fan-out"

    @step
    async def begin(self, ctx: Context, ev: Started) -> list[Task | SlowTask]:
        began(ctx, "begin")
        return [(Task if n % 2 else SlowTask)(n=n, seconds=ev.seconds) for n in range(ev.n)]

    @step(num_workers=8)
    async def quick(self, ctx: Context, ev: Task) -> Outcome:
        began(ctx, "quick", n=ev.n)
        await asyncio.sleep(ev.seconds)
        deposit(ctx)
        return Outcome(n=ev.n)

    @step(num_workers=8)
    def slow(self, ctx: Context, ev: SlowTask) -> Outcome:
        began(ctx, "slow", n=ev.n)
        time.sleep(ev.seconds)
        deposit(ctx)
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
        return Counter(begin=1, quick=n // 2, slow=(n + 1) // 2, gather=1)


class Nested(Chaotic):
    """Fan-outs within a fan-out, of different sizes: the n-th group has n + 1 members."""

    KIND = "nested"

    @step
    async def begin(self, ctx: Context, ev: Started) -> list[Group]:
        began(ctx, "begin")
        return [Group(n=n, size=n + 1, seconds=ev.seconds) for n in range(ev.n)]

    @step
    def open(self, ctx: Context, ev: Group) -> list[Task]:
        began(ctx, "open", n=ev.n)
        return [Task(n=100 * ev.n + i, seconds=ev.seconds) for i in range(ev.size)]

    @step
    async def work(self, ctx: Context, ev: Task) -> Outcome:
        began(ctx, "work", n=ev.n)
        await asyncio.sleep(ev.seconds)
        return Outcome(n=ev.n)

    @step
    async def inner(self, ctx: Context, evs: list[Outcome]) -> Sum:
        began(ctx, "inner", members=sorted(ev.n for ev in evs))
        return Sum(ns=sorted(ev.n for ev in evs))

    @step
    def outer(self, ctx: Context, evs: list[Sum]) -> StopEvent:
        began(ctx, "outer", members=sorted(f"group from {ev.ns[0]}" for ev in evs))
        return StopEvent(result=sorted(ev.ns for ev in evs))

    @staticmethod
    def expected(n: int) -> Any:
        return [[100 * group + i for i in range(group + 1)] for group in range(n)]

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, open=n, work=n * (n + 1) // 2, inner=n, outer=1)


class Pairs(Chaotic):
    """Two branches that meet in a step with two parameters."""

    KIND = "join"

    @step
    async def left(self, ctx: Context, ev: Started) -> Odd:
        began(ctx, "left")
        await asyncio.sleep(ev.seconds)
        return Odd(n=ev.n, left=0, seconds=0)

    @step
    def right(self, ctx: Context, ev: Started) -> Even:
        began(ctx, "right")
        time.sleep(ev.seconds)
        return Even(n=-ev.n, left=0, seconds=0)

    @step
    async def meet(self, ctx: Context, odd: Odd, even: Even) -> StopEvent:
        began(ctx, "meet", members=[odd.n, even.n])
        return StopEvent(result=[odd.n, even.n])

    @staticmethod
    def expected(n: int) -> Any:
        return [n, -n]

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(left=1, right=1, meet=1)


class Gathers(Chaotic):
    """Events that are sent before their step ends, and collected with `collect_events`."""

    KIND = "collect"

    @step
    async def begin(self, ctx: Context, ev: Started) -> Task | None:
        began(ctx, "begin")
        await ctx.store.set("n", ev.n)
        for n in range(ev.n):
            ctx.send_event(Task(n=n, seconds=ev.seconds))
            await asyncio.sleep(ev.seconds / 10)
        return None

    @step
    async def work(self, ctx: Context, ev: Task) -> Outcome:
        began(ctx, "work", n=ev.n)
        await asyncio.sleep(ev.seconds)
        return Outcome(n=ev.n)

    @step
    async def gather(self, ctx: Context, ev: Outcome) -> StopEvent | None:
        began(ctx, "gather", n=ev.n)
        found = ctx.collect_events(ev, [Outcome] * await ctx.store.get("n"))
        return None if found is None else StopEvent(result=sorted(each.n for each in found))

    @staticmethod
    def expected(n: int) -> Any:
        return list(range(n))

    @staticmethod
    def commits(n: int) -> Counter[str] | None:
        return None


class Falters(Chaotic):
    """Fails twice, with a delay before each retry, then succeeds."""

    KIND = "retry"

    @step
    async def begin(self, ctx: Context, ev: Started) -> Task:
        began(ctx, "begin")
        return Task(n=ev.n, seconds=ev.seconds)

    @step(retry_policy=retry_policy(wait=wait_fixed(0.2), stop=stop_after_attempt(20)))
    async def falter(self, ctx: Context, ev: Task) -> StopEvent:
        failures = ctx.retry_info().retry_number
        began(ctx, "falter", failures=failures)
        await asyncio.sleep(ev.seconds)
        if failures < 2:
            raise Broken(f"failure {failures + 1}")
        return StopEvent(result=failures)

    @staticmethod
    def expected(n: int) -> Any:
        return 2

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, falter=1)


class Caught(Chaotic):
    """Every third branch fails permanently, and its error handler supplies a replacement."""

    KIND = "rescue"

    @step
    async def begin(self, ctx: Context, ev: Started) -> list[Task]:
        began(ctx, "begin")
        return [Task(n=n, seconds=ev.seconds) for n in range(ev.n)]

    @step
    def work(self, ctx: Context, ev: Task) -> Outcome:
        began(ctx, "work", n=ev.n)
        time.sleep(ev.seconds)
        if ev.n % 3 == 0:
            raise Broken(f"branch {ev.n}")
        return Outcome(n=ev.n)

    @catch_error(for_steps=["work"])
    async def rescue(self, ctx: Context, ev: StepFailedEvent) -> Outcome:
        began(ctx, "rescue", n=ev.input_event.n)
        return Outcome(n=1000 + ev.input_event.n)

    @step
    async def gather(self, ctx: Context, evs: list[Outcome]) -> StopEvent:
        began(ctx, "gather", members=sorted(ev.n for ev in evs))
        return StopEvent(result=sorted(ev.n for ev in evs))

    @staticmethod
    def expected(n: int) -> Any:
        return sorted(i if i % 3 else 1000 + i for i in range(n))

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, work=n, rescue=(n + 2) // 3, gather=1)


class Asks(Chaotic):
    """Branches that each wait for their own answer, which the driver sends."""

    KIND = "wait"

    @step
    async def begin(self, ctx: Context, ev: Started) -> list[Ask]:
        began(ctx, "begin")
        return [Ask(n=n) for n in range(ev.n)]

    @step
    async def ask(self, ctx: Context, ev: Ask) -> Outcome:
        began(ctx, "ask", n=ev.n)
        question = Asked(n=ev.n)
        answer = await ctx.wait_for_event(
            Answer, waiter_event=question, waiter_id=str(ev.n), requirements={"n": ev.n}, timeout=None
        )
        began(ctx, "answered", n=ev.n)
        assert answer.text == f"answer {ev.n}"
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
        return Counter(begin=1, ask=n, gather=1)


class Counts(Chaotic):
    """Many steps edit one counter concurrently, and record their items in a dict that repeated attempts do not grow."""

    KIND = "state"

    @step
    async def begin(self, ctx: Context, ev: Started) -> list[Task | SlowTask]:
        began(ctx, "begin")
        async with ctx.store.edit_state() as state:
            state["edits"], state["by"] = 0, {}
        return [(Task if n % 2 else SlowTask)(n=n) for n in range(ev.n)]

    @step
    async def count(self, ctx: Context, ev: Task) -> Outcome:
        began(ctx, "count", n=ev.n)
        async with ctx.store.edit_state() as state:
            state["edits"] += 1
            state["by"] = state["by"] | {str(ev.n): True}
        return Outcome(n=ev.n)

    @step
    def count_plainly(self, ctx: Context, ev: SlowTask) -> Outcome:
        began(ctx, "count_plainly", n=ev.n)
        with ctx.store.edit_state() as state:
            state["edits"] += 1
            state["by"] = state["by"] | {str(ev.n): True}
        return Outcome(n=ev.n)

    @step
    async def gather(self, ctx: Context, evs: list[Outcome]) -> StopEvent:
        edits = await ctx.store.get("edits")
        by = sorted(int(n) for n in await ctx.store.get("by"))
        began(ctx, "gather", members=sorted(ev.n for ev in evs), edits=edits)
        return StopEvent(result=by)

    @staticmethod
    def expected(n: int) -> Any:
        return list(range(n))

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, count=n // 2, count_plainly=(n + 1) // 2, gather=1)


#: The kinds of a mixed load.
KINDS: tuple[type[Chaotic], ...] = (
    Links,
    Spread,
    Nested,
    Pairs,
    Gathers,
    Falters,
    Caught,
    Asks,
    Counts,
    Tells,
    Family,
    Races,
    Expires,
    Talks,
)
