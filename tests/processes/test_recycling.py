"""Workers that exit after a number of steps, or once they use too much memory, and what happens to their work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import umbel
from support.eventually import eventually
from support.processes.command_line import Cli
from umbel.workers.embedded.redis_server import EmbeddedRedis

FLOWS = """
import os

from umbel import StartEvent, StopEvent, Workflow, step

kept = []


class Leaky(Workflow):
    @step
    def leak(self, ev: StartEvent) -> StopEvent:
        kept.append(b"x" * (ev.megabytes << 20))
        return StopEvent(result=os.getpid())
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    (tmp_path / "leaky.py").write_text(FLOWS)
    with EmbeddedRedis.temporary() as server:
        yield Cli(tmp_path, UMBEL_REDIS_URL=server.url)


@pytest.fixture
def runtime(cli: Cli) -> Iterator[umbel.Runtime]:
    runtime = umbel.Runtime(umbel.Settings(redis_url=cli.environment["UMBEL_REDIS_URL"]))
    yield runtime
    runtime.close()


class Leaky(umbel.Workflow):
    """The same workflow as the worker's."""

    @umbel.step
    def leak(self, ev: umbel.StartEvent) -> umbel.StopEvent:
        return umbel.StopEvent()


def pids(runtime: umbel.Runtime, count: int, megabytes: int = 0) -> list[int]:
    """Return the processes that execute `count` steps, one after the other."""
    flow = Leaky(runtime=runtime, workflow_name="leaky.Leaky")
    return [flow.run(megabytes=megabytes).result(40) for _ in range(count)]


@pytest.mark.parametrize("pool", ["asyncio", "threads"])
@pytest.mark.parametrize(("option", "megabytes"), [(("--max-steps", "3"), 0), (("--max-memory", "350"), 100)])
def test_a_worker_that_has_reached_its_limit_ends_and_the_next_one_goes_on(
    cli: Cli, runtime: umbel.Runtime, pool: str, option: tuple[str, str], megabytes: int
) -> None:
    with cli.background("worker", "leaky", "--pool", pool, *option) as first:
        first.says("ready.")
        [process] = set(pids(runtime, 3, megabytes))
        eventually(lambda: first.process.poll() is not None, "the worker has ended")
        assert first.wait().code == 0
        assert "this worker ends after" in first.err
    with cli.background("worker", "leaky", "--pool", pool) as second:
        second.says("ready.")
        assert set(pids(runtime, 1)) == {second.process.pid} != {process}


def test_so_does_a_worker_that_executes_steps_in_its_main_thread(cli: Cli, runtime: umbel.Runtime) -> None:
    with cli.background("worker", "leaky", "--pool", "solo", "--max-steps", "2") as worker:
        worker.says("ready.")
        assert set(pids(runtime, 2)) == {worker.process.pid}
        assert worker.wait().code == 0


def test_a_pool_child_that_has_reached_its_limit_is_replaced_and_the_worker_goes_on(
    cli: Cli, runtime: umbel.Runtime
) -> None:
    with cli.background("worker", "leaky", "--pool", "prefork", "--concurrency", "1", "--max-steps", "2") as worker:
        worker.says("ready.")
        assert len(set(pids(runtime, 5))) == 3
        assert worker.process.poll() is None
