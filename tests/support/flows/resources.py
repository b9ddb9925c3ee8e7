"""A workflow whose resources are made in the worker's main process, too, before it forks its pool."""

from __future__ import annotations

import os
from typing import Annotated

import umbel
from umbel import Event, StartEvent, StopEvent, Workflow, step
from umbel.tasks.resources.resource import Resource


class Connection:
    """Knows the process it was made in, and how many have been made there."""

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
    """Who executed a step, and where its connections were made."""

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
