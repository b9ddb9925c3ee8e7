"""Workflows and signal receivers for tests of local continuation; see `support.flows.everyday`."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from celery import current_task, signals

from support.flows.everyday import FOLDER, Broken, Number, Squared, Told, effect, hold, hold_on_loop, is_open
from umbel import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed


class Links(Workflow):
    """A chain with as many links as the start event says; some of them wait at a gate."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Number:
        await ctx.store.set("length", ev.n)
        await ctx.store.set("held", ev.get("held", []))
        return Number(n=1)

    @step
    async def link(self, ctx: Context, ev: Number) -> Number | Squared | StopEvent:
        effect("link", ctx, n=ev.n, task=current_task.request.id if current_task else None)
        if ev.n in await ctx.store.get("held"):
            await hold_on_loop(f"{ctx.run_id}-{ev.n}")
            effect("released", ctx, n=ev.n)
        if ev.n == await ctx.store.get("length"):
            return StopEvent(result=ev.n)
        return Squared(n=ev.n + 1) if ev.n % 5 == 4 else Number(n=ev.n + 1)

    @step
    def plain_link(self, ctx: Context, ev: Squared) -> Number | StopEvent:
        effect("link", ctx, n=ev.n)
        if ev.n in ctx.store.get("held"):
            hold(f"{ctx.run_id}-{ev.n}")
            effect("released", ctx, n=ev.n)
        return StopEvent(result=ev.n) if ev.n == ctx.store.get("length") else Number(n=ev.n + 1)


class Unending(Workflow):
    """Loops until another run has opened its gate."""

    @step
    async def begin(self, ev: StartEvent) -> Number:
        return Number(n=0)

    @step
    async def round(self, ctx: Context, ev: Number) -> Number | StopEvent:
        return StopEvent(result=ev.n) if ev.n >= 200 and is_open(ctx.run_id) else Number(n=ev.n + 1)


class Opening(Workflow):
    """The last of its three steps opens a gate."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Number:
        await ctx.store.set("gate", ev.gate)
        return Number(n=1)

    @step
    async def middle(self, ev: Number) -> Squared:
        return Squared(n=1)

    @step
    async def end(self, ctx: Context, ev: Squared) -> StopEvent:
        gate = await ctx.store.get("gate")
        open(os.path.join(os.environ[FOLDER], f"gate-{gate}"), "w").close()
        return StopEvent()


class Falls(Workflow):
    """Its second step fails three times, with no delay between attempts."""

    @step
    async def begin(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def fall(self, ctx: Context, ev: Number) -> StopEvent:
        effect("fell", ctx)
        raise Broken(f"attempt {ctx.attempt}")


class Answer(HumanResponseEvent):
    text: str


class Waits(Workflow):
    """Its second step waits for an answer."""

    @step
    async def begin(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step
    async def ask(self, ctx: Context, ev: Number) -> StopEvent:
        effect("asked", ctx)
        answer = await ctx.wait_for_event(Answer, timeout=None)
        return StopEvent(result=answer.text)


class Elsewhere(Workflow):
    """Its middle step uses another queue."""

    @step
    async def begin(self, ev: StartEvent) -> Number:
        return Number(n=3)

    @step(queue="gpu")
    async def render(self, ctx: Context, ev: Number) -> Squared:
        effect("rendered", ctx)
        return Squared(n=ev.n)

    @step
    async def end(self, ctx: Context, ev: Squared) -> StopEvent:
        return StopEvent(result=ev.n)


class Meeting(Workflow):
    """A fan-out that waits until the test opens its gate; returns the processes that executed it."""

    @step
    async def spread(self, ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(ev.n)]

    @step(num_workers=100)
    async def meet(self, ctx: Context, ev: Number) -> Told:
        effect("begun", ctx)
        await hold_on_loop(ctx.run_id)
        return Told(text=str(os.getpid()))

    @step
    async def gather(self, evs: list[Told]) -> StopEvent:
        return StopEvent(result=sorted(ev.text for ev in evs))


class Crowd(Workflow):
    """Plain steps that all wait for each other."""

    @step
    def spread(self, ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(ev.n)]

    @step(num_workers=100)
    def meet(self, ctx: Context, ev: Number) -> Told:
        effect("begun", ctx)
        hold(ctx.run_id)
        return Told(text=threading.current_thread().name)

    @step
    def gather(self, evs: list[Told]) -> StopEvent:
        return StopEvent(result=len({ev.text for ev in evs}))


class Heard(Event):
    who: str


class Colour(Event):
    n: int


class Colours(Workflow):
    """Uses everything that a context offers, in an async and in a plain step alike."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Number | Squared:
        ctx.send_event(Number(n=1))
        return Squared(n=2)

    @step
    async def on_loop(self, ctx: Context, ev: Number) -> Heard | Colour:
        await ctx.store.set("on_loop", ev.n)
        ctx.write_event_to_stream(Told(text="on_loop"))
        ctx.send_event(Colour(n=10))
        answer = await ctx.wait_for_event(Answer, timeout=None)
        return Heard(who=f"{answer.text} {await ctx.store.get('on_loop')}")

    @step
    def plain(self, ctx: Context, ev: Squared) -> Heard | Colour:
        ctx.store.set("plain", ev.n)
        ctx.write_event_to_stream(Told(text="plain"))
        ctx.send_event(Colour(n=20))
        return Heard(who=f"plain {ctx.store.get('plain')}")

    @step
    async def collect_on_loop(self, ctx: Context, ev: Colour) -> None:
        found = ctx.collect_events(ev, [Colour] * 2)
        if found is not None:
            effect("collected", ctx, n=sorted(each.n for each in found))

    @step
    def collect_plainly(self, ctx: Context, ev: Heard) -> StopEvent | None:
        found = ctx.collect_events(ev, [Heard] * 2)
        return None if found is None else StopEvent(result=sorted(each.who for each in found))


class Shield(Workflow):
    """Waits until its run has ended."""

    @step
    async def begin(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step
    async def wait(self, ctx: Context, ev: Number) -> StopEvent:
        effect("waiting", ctx)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            effect("cancelled", ctx)
            raise
        return StopEvent()


def _on_signal(name: str) -> Any:
    def receiver(sender: Any = None, task_id: str | None = None, **more: Any) -> None:
        request = more.get("request")
        shown: dict[str, Any] = {"task": sender.name, "id": task_id or (request or sender.request).id}
        if "state" in more:
            shown["state"] = more["state"]
        if "exception" in more:
            shown["error"] = repr(more["exception"])
        if sender.request.id != shown["id"]:
            shown["request"] = sender.request.id
        effect(f"signal {name}", None, **shown)

    return receiver


if FOLDER in os.environ:  # in a worker, not in the test that imports the workflows
    for _name in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
        getattr(signals, _name).connect(_on_signal(_name), weak=False)
