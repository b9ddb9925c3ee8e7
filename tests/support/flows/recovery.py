"""Workflows whose processes die or misbehave, to test recovery."""

from __future__ import annotations

import _thread
import asyncio
import itertools
import os
import resource
import signal
import sys
import time

from support.flows.everyday import effect
from umbel import Context, StartEvent, StopEvent, Workflow, step


class LostOnce(Workflow):
    """An async step that hangs in its first attempt, and takes `seconds` in any later one."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("begun", ctx)
        await asyncio.sleep(600 if ctx.attempt == 1 else ev.seconds)
        effect("ended", ctx)
        return StopEvent(result=ctx.attempt)


class PlainLostOnce(Workflow):
    """A plain step that hangs in its first attempt, and takes `seconds` in any later one."""

    @step
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("begun", ctx)
        time.sleep(600 if ctx.attempt == 1 else ev.seconds)
        effect("ended", ctx)
        return StopEvent(result=ctx.attempt)


class Poison(Workflow):
    """Kills its process whenever it is executed, after `seconds`."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("dying", ctx)
        await asyncio.sleep(ev.seconds)
        os.kill(os.getpid(), signal.SIGKILL)
        return StopEvent()


class Strange(BaseException):
    """An exception that no `except Exception` catches."""


def _recurse(n: int) -> int:
    return _recurse(n + 1) + 1


def misbehave(how: str) -> None:
    """Do something that no step should do."""
    match how:
        case "exit":
            sys.exit(3)
        case "os._exit":
            os._exit(0)
        case "abort":
            os.abort()
        case "keyboard interrupt":
            raise KeyboardInterrupt
        case "generator exit":
            raise GeneratorExit
        case "cancelled":
            raise asyncio.CancelledError
        case "base exception":
            raise Strange("boo")
        case "recursion":
            _recurse(0)
        case "memory error":
            limit = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, limit[1]))
            try:
                bytearray(8 << 30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limit)
        case "thread exit":
            _thread.exit()


class Misbehaves(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("misbehaving", ctx)
        misbehave(ev.how)
        return StopEvent()


class PlainlyMisbehaves(Workflow):
    @step
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("misbehaving", ctx)
        misbehave(ev.how)
        return StopEvent()


class CancelsItself(Workflow):
    """A step that cancels the task it runs in, as a stray cancel scope does."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("cancelling itself", ctx)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(600)
        return StopEvent()


class CancelsAllTasks(Workflow):
    """A step that cancels every task on its loop, as code does that assumes it has the process to itself."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.sleep(0)
        return StopEvent(result="done")


class StopsItsLoop(Workflow):
    """A step that stops the loop it runs on."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        return StopEvent(result="done")


def _fork() -> int:
    """Fork a process that ends as most do, by leaving the code that forked it; return its exit code."""
    if (pid := os.fork()) == 0:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Forks(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=_fork())


class PlainlyForks(Workflow):
    @step
    def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=_fork())


class Hangs(Workflow):
    """A plain step that cannot be interrupted: in a blocking call, or holding Python's GIL."""

    @step(timeout=1.0)
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("hanging", ctx)
        if ev.holds_lock:
            sum(itertools.repeat(0))
        time.sleep(600)
        return StopEvent()
