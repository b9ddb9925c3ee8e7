"""Queues that are paused for the whole deployment by command, in running workers and in those that start later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import umbel
from support.eventually import eventually
from support.processes.command_line import Cli
from umbel.orchestration.engine.worker_directory import seen_workers
from umbel.workers.embedded.redis_server import EmbeddedRedis

FLOWS = """
from umbel import Event, StartEvent, StopEvent, Workflow, step


class Slow(Event):
    pass


class Two(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Slow:
        return Slow()

    @step(queue="slow")
    async def second(self, ev: Slow) -> StopEvent:
        return StopEvent(result="done")
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    (tmp_path / "two.py").write_text(FLOWS)
    with EmbeddedRedis.temporary() as server:
        yield Cli(tmp_path, UMBEL_REDIS_URL=server.url)


@pytest.fixture
def runtime(cli: Cli) -> Iterator[umbel.Runtime]:
    runtime = umbel.Runtime(umbel.Settings(redis_url=cli.environment["UMBEL_REDIS_URL"]))
    yield runtime
    runtime.close()


def queues(runtime: umbel.Runtime) -> list[tuple[list[str], list[str]]]:
    """Return, for each live worker, the queues it consumes and those it has paused."""
    workers = runtime.portal.call(seen_workers(runtime.store))
    return [(sorted(worker.queues), sorted(worker.paused)) for worker in workers if worker.is_live]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", ["asyncio", "threads"])
def test_a_paused_queue_is_left_alone_until_it_is_resumed(cli: Cli, runtime: umbel.Runtime, pool: str) -> None:
    with cli.background("worker", "two", "--pool", pool, "--name", "running") as running:
        running.says("ready.")
        assert "Paused queue 'slow'" in cli("pause", "slow").err
        eventually(lambda: queues(runtime) == [(["umbel"], ["slow"])], "the worker leaves it alone")

        run_id = cli("start", "two:Two").out.strip()
        with cli.background("worker", "two", "--pool", pool, "--name", "later") as later:
            later.says("ready.")
            eventually(lambda: queues(runtime) == [(["umbel"], ["slow"])] * 2, "so does one that starts later")
            eventually(
                lambda: "second: 1 execution dispatched to queue 'slow'" in cli("show", run_id).out, "the run waits"
            )
            assert "slow" in cli("pause").out

            cli("resume", "slow")
            assert runtime.attach(run_id).result(30) == "done"
            eventually(lambda: queues(runtime) == [(["slow", "umbel"], [])] * 2, "both take from it again")
    assert "Nothing is paused." in cli("pause").err
    assert "Queue 'slow' is not paused." in cli.error("resume", "slow")
