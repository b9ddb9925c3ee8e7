"""Workflows of every kind for the chaos suite. Each knows what it must come to, and each step notes that it began.

`expected` of a workflow gives the result that its arguments must have, and how often which step must have been
committed: the checker compares both with what Redis and the effect log say.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any, ClassVar

from support.chaos.effect_log import began, deposit
from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    retry_policy,
    step,
)
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed


class Started(StartEvent):
    n: int = 1
    seconds: float = 0.0


class Odd(Event):
    n: int
    left: int
    seconds: float


class Even(Event):
    n: int
    left: int
    seconds: float


class Task(Event):
    n: int
    seconds: float = 0.0


class SlowTask(Event):
    n: int
    seconds: float = 0.0


class Outcome(Event):
    n: int


class Group(Event):
    n: int
    size: int
    seconds: float


class Sum(Event):
    ns: list[int]


class Ask(Event):
    n: int


class Asked(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int
    text: str


class Noted(Event):
    n: int
    work: str
    attempt: int


class Broken(Exception):
    """What a chaos step raises on purpose."""


class Chaotic(Workflow):
    """Says what a run of it must come to."""

    KIND: ClassVar[str] = ""
    #: Of its runs.
    OPTIONS: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def expected(n: int) -> Any:
        """The run's result."""
        raise NotImplementedError

    @staticmethod
    def commits(n: int) -> Counter[str] | None:
        """How many outcomes of each step must be recorded that are neither a retry nor a wait.

        None when the end may overtake steps: what they did is then not wanted any more.
        """
        raise NotImplementedError


class Links(Chaotic):
    """A chain whose steps are async and plain in turn, each with a booking at the bank."""

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
    """Events that are sent before the step's end, and gathered by hand."""

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
    """Fails twice, with a pause before each new try, then goes on."""

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
    """Every third branch fails for good and is rescued with a substitute."""

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
    """Branches that each wait for the answer that is meant for them; the driver sends it."""

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
    """Many steps edit one counter at once, and keep a list by work item that no repetition makes longer."""

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


class Tells(Chaotic):
    """Writes numbered events to its stream, from an async and from a plain step."""

    KIND = "stream"

    @step
    async def begin(self, ctx: Context, ev: Started) -> Task:
        began(ctx, "begin")
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


class Held(Chaotic):
    """A plain step of a chosen length, for faults that must meet a step in its middle."""

    KIND = "held"

    @step
    async def begin(self, ctx: Context, ev: Started) -> SlowTask:
        began(ctx, "begin")
        return SlowTask(n=ev.n, seconds=ev.seconds)

    @step
    def held(self, ctx: Context, ev: SlowTask) -> StopEvent:
        began(ctx, "held")
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
    """A plain step that may not take long, and is tried again when it does."""

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
    """A plain step that no time limit can interrupt, in its first attempt only: somebody else has to notice."""

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
    """Few of its runs may go on at once."""

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
    """Fails twice and waits a second before each new try: long enough for a fault in between."""

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
    """A wide fan-out of steps that do next to nothing: their commits race for the fan-in."""

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


#: What a mixed load is made of.
KINDS: tuple[type[Chaotic], ...] = (Links, Spread, Nested, Pairs, Gathers, Falters, Caught, Asks, Counts, Tells)
