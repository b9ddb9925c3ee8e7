"""Workflows of the mixed load with more than steps: streams, child runs, races, sessions, join deadlines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Annotated, Any

from support.chaos.effect_log import began, deposit
from support.chaos.flow_events import (
    Answer,
    Ask,
    Chaotic,
    Even,
    Noted,
    Odd,
    Outcome,
    Started,
    Task,
)
from umbel import (
    Collect,
    Context,
    JoinExpired,
    StopEvent,
    Take,
    step,
)
from umbel.tasks.context.children import ChildRun


class Tells(Chaotic):
    """Writes numbered events to its stream, from an async and from a plain step."""

    KIND = "stream"

    @step
    async def begin(self, ctx: Context, ev: Started) -> Task:
        began(ctx, "begin")
        logging.getLogger("chaos").warning("it tells %d", ev.n)
        for n in range(ev.n):
            ctx.write_event_to_stream(Noted(n=n, work="begin", attempt=ctx.attempt))
            await asyncio.sleep(ev.seconds / 10)
        return Task(n=ev.n, seconds=ev.seconds)

    @step
    def more(self, ctx: Context, ev: Task) -> StopEvent:
        began(ctx, "more")
        for n in range(ev.n):
            ctx.write_event_to_stream(Noted(n=n, work="more", attempt=ctx.attempt))
            time.sleep(ev.seconds / 10)
        return StopEvent(result=ev.n)

    @staticmethod
    def expected(n: int) -> Any:
        return n

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, more=1)


class Member(Chaotic):
    """A child run of `Family`: two steps, and a booking at the bank."""

    @step
    async def begin(self, ctx: Context, ev: Started) -> Task:
        began(ctx, "begin", n=ev.n)
        return Task(n=ev.n, seconds=ev.seconds)

    @step
    async def work(self, ctx: Context, ev: Task) -> StopEvent:
        began(ctx, "work", n=ev.n)
        await asyncio.sleep(ev.seconds)
        deposit(ctx)
        return StopEvent(result=ev.n)


class Family(Chaotic):
    """A step that computes a value once and runs children, two at a time; a second step ends the run."""

    KIND = "children"

    @step
    async def begin(self, ctx: Context, ev: Started) -> Task:
        # Runs again after the wait for its children, in the same attempt. So it records only once that it has begun.
        factor = await ctx.once("factor", lambda: began(ctx, "begin") or 2)
        children = [ChildRun(Member(timeout=None), Started(n=n, seconds=ev.seconds)) for n in range(ev.n)]
        return Task(n=factor * sum(await ctx.run_all(children, limit=2)))

    @step
    async def end(self, ctx: Context, ev: Task) -> StopEvent:
        began(ctx, "end")
        return StopEvent(result=ev.n)

    @staticmethod
    def expected(n: int) -> Any:
        return n * (n - 1)

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, end=1)


class Races(Chaotic):
    """Branches of which the first two to finish win: the others are cancelled, including one that waits forever."""

    KIND = "race"

    @step
    async def begin(self, ctx: Context, ev: Started) -> list[Task | Ask]:
        began(ctx, "begin")
        return [*(Task(n=n, seconds=ev.seconds) for n in range(ev.n + 1)), Ask(n=-1)]

    @step(num_workers=2)
    async def go(self, ctx: Context, ev: Task) -> Outcome:
        began(ctx, "go", n=ev.n)
        await asyncio.sleep(ev.seconds)
        return Outcome(n=ev.n)

    @step
    async def wait(self, ctx: Context, ev: Ask) -> Outcome:
        began(ctx, "wait")
        await ctx.wait_for_event(Answer, requirements={"n": ev.n}, timeout=None)
        return Outcome(n=ev.n)

    @step
    async def end(self, ctx: Context, evs: Annotated[list[Outcome], Collect(Take(2), cancel_rest=True)]) -> StopEvent:
        began(ctx, "end")
        return StopEvent(result=len(evs))

    @staticmethod
    def expected(n: int) -> Any:
        return 2

    @staticmethod
    def commits(n: int) -> Counter[str] | None:
        return None


class Talks(Chaotic):
    """A question in a session, answered from the session's state; the answer must belong to this question."""

    KIND = "session"

    @staticmethod
    def session(n: int) -> str:
        return f"talks {n % 6}"

    @step
    async def ask(self, ctx: Context, ev: Started) -> Task:
        began(ctx, "ask")
        await ctx.store.set("question", [ctx.run_id, ev.n])
        await asyncio.sleep(ev.seconds)
        return Task(n=ev.n)

    @step
    def answer(self, ctx: Context, ev: Task) -> StopEvent:
        began(ctx, "answer")
        run_id, n = ctx.store.get("question")
        deposit(ctx)
        return StopEvent(result=n if run_id == ctx.run_id else f"that of {run_id}")

    @staticmethod
    def expected(n: int) -> Any:
        return n

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(ask=1, answer=1)


class Expires(Chaotic):
    """A join that one event never reaches: it expires, its event is dropped, and a step handles the expiry."""

    KIND = "expiry"

    @step
    async def begin(self, ctx: Context, ev: Started) -> Odd | Even:
        began(ctx, "begin")
        return Odd(n=ev.n, left=0, seconds=0)

    @step(join_by="n", within_seconds=0.2)
    async def meet(self, ctx: Context, odd: Odd, even: Even) -> StopEvent:
        began(ctx, "meet", members=[odd.n, even.n])
        return StopEvent(result="met")

    @step
    async def late(self, ctx: Context, ev: JoinExpired) -> StopEvent:
        began(ctx, "late")
        return StopEvent(result=[ev.key, *ev.missing])

    @staticmethod
    def expected(n: int) -> Any:
        return [n, "Even"]

    @staticmethod
    def commits(n: int) -> Counter[str]:
        return Counter(begin=1, late=1)
