"""The command line on runs that wait for admission."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes.command_line import Cli
from support.store.blocking import store_of
from umbel import Settings, StartEvent, StopEvent, Workflow, step
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.redis_server import EmbeddedRedis


class Limited(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """A deployment without workers: an admitted run stays admitted."""
    with EmbeddedRedis.temporary() as server:
        made = Runtime(Settings(redis_url=server.url))
        yield made
        made.close()


def test_a_run_that_waits_for_admission_is_shown_as_such_and_can_be_cancelled_and_retried(
    runtime: Runtime, tmp_path: Path
) -> None:
    cli = Cli(tmp_path, UMBEL_REDIS_URL=str(runtime.settings.redis_url))
    flow = Limited(runtime=runtime, num_concurrent_runs=1)
    first, second = (flow.start(run_id=run_id) for run_id in ("first", "second"))

    assert "running, waiting for its concurrency limit" in cli("show", "second").out
    listed = json.loads(cli("runs", "--json").out)
    assert [(each["run_id"], each["waits_for_admission"]) for each in listed] == [("second", True), ("first", False)]

    cli("cancel", "second")
    assert second.status() == "cancelled"
    assert "'second' is waiting for its workflow's concurrency limit" in cli("retry", "second").err
    first.cancel()
    assert not store_of(runtime).run("second").waits_for_admission
    second.cancel()
    assert "'first' resumes with 1 step" in cli("retry", "first").err
