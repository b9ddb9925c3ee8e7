"""A workflow whose resources are also created in the worker's main process, before it forks its pool."""

from __future__ import annotations

import os
from typing import Annotated

import umbel
from umbel import Event, StartEvent, StopEvent, Workflow, step
from umbel.tasks.resources.resource import Resource


class Connection:
    """Records the process that created it, and how many that process has created."""

    made = 0

    def __init__(self) -> None:
        Connection.made += 1
        self.number, self.pid = Connection.made, os.getpid()


async def connect() -> Connection:
    return Connection()


def make_pool() -> Connection:
    return Connection()


class Part(Event):
    n: int


class Used(Event):
    """The process that executed a step, and the processes that created its connections."""

    pid: int
    made_in: list[int]
    numbers: list[int]


class Connected(Workflow):
    @step
    async def spread(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(ev.n)]

    @step
    def use(
        self,
        ev: Part,
        connection: Annotated[Connection, Resource(connect)],
        pool: Annotated[Connection, Resource(make_pool)],
    ) -> Used:
        pids = [connection.pid, pool.pid]
        return Used(pid=os.getpid(), made_in=pids, numbers=[connection.number, pool.number])

    @step
    async def gather(self, evs: list[Used]) -> StopEvent:
        return StopEvent(result=[(ev.pid, ev.made_in, ev.numbers) for ev in evs])


flow = Connected()
flow.validate(validate_resources=True)
umbel.register(flow)
