"""`umbel ping`: what it says of workers, and of a Redis that keeps it from knowing, within the time of a probe."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.faults.redis_under_test import RedisUnderTest
from support.faults.refusals import REFUSALS_OF_WRITES
from support.processes.command_line import FLOWS, Cli
from support.store.blocking import blocking_store
from umbel import Settings
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.engine.worker_directory import SeenWorker, seen_workers
from umbel.workers.embedded.supervisor import Supervisor

HOST = socket.gethostname()

#: The time limit of the probes in `deploy/` and `docker-compose.yml`.
PROBE_SECONDS = 10.0

#: A name server that is silent, as Python sees it: looking up a name takes very long.
SILENT_NAME_SERVER = """
import socket
import time

socket.getaddrinfo = lambda *_, **__: time.sleep(60)
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisUnderTest]:
    with Supervisor() as supervisor:
        server = RedisUnderTest(tmp_path_factory.mktemp("redis"), supervisor)
        yield server
        server.close()


def announced(redis: RedisUnderTest) -> list[SeenWorker]:
    store = blocking_store(Settings(redis_url=redis.url))
    try:
        return store.call(seen_workers, store)
    finally:
        store.client.close()
        store.portal.close()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, redis: RedisUnderTest) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "flows.py").write_text(FLOWS)
    configured = Cli(folder, UMBEL_REDIS_URL=redis.url)
    with configured.background("worker", "flows:Squares", "--name", "w1") as worker:
        worker.says("ready.")
        yield configured


def test_a_worker_that_is_alive_is_found_and_another_is_not(cli: Cli) -> None:
    assert "w1@" in cli("ping", "w1").out
    assert "is alive" in cli("ping").out
    silent = cli("ping", "w2", fails=True)
    assert silent.code == 1
    assert "No worker called 'w2' has announced itself. Live: w1@" in silent.err


@pytest.mark.parametrize(
    ("given", "announced_as"),
    [
        ("%h", f"{HOST}@{HOST}"),
        ("a %n", f"a {HOST.partition('.')[0]}@{HOST}"),
        ("100%%", f"100%@{HOST}"),
        ("shop@there", "shop@there"),
        ("shop@%h", f"shop@{HOST}"),
    ],
)
def test_a_worker_is_found_under_the_name_it_was_given(cli: Cli, given: str, announced_as: str) -> None:
    with cli.background("worker", "flows:Squares", "--name", given) as worker:
        worker.says(f"{announced_as} ready.")
        for asked in (given, announced_as.replace("%", "%%"), announced_as.partition("@")[0].replace("%", "%%")):
            eventually(lambda asked=asked: cli_finds(cli, asked) == announced_as, f"{asked!r} is found")


def cli_finds(cli: Cli, asked: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "umbel.workers.cli", "ping", asked],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.partition(" is alive")[0]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("a\nb", "cannot be printed"),
        ("a\x1b[31m", "cannot be printed"),
        ("a@b\x01c", "cannot be printed"),
        ("x@y@z", "neither NAME nor NAME@HOST"),
        ("shop@", "neither NAME nor NAME@HOST"),
        ("@there", "neither NAME nor NAME@HOST"),
        ("w%x", "has '%x'; it may have %h"),
    ],
)
def test_a_name_that_no_log_line_could_show_is_refused(cli: Cli, given: str, why: str) -> None:
    refused = cli("worker", "flows:Squares", "--name", given, fails=True)
    assert why in " ".join(refused.err.split())
    assert "Traceback" not in refused.err


def test_while_redis_does_not_answer_no_worker_counts_as_dead(cli: Cli) -> None:
    away = ("--redis", "redis://127.0.0.1:1/0")
    assert "did not answer" in cli("ping", "w1", *away).err
    assert cli("ping", "w1", "--strict", *away, fails=True).code == 1


def test_a_redis_that_is_silent_is_not_waited_for_longer_than_a_probe_allows(cli: Cli, redis: RedisUnderTest) -> None:
    redis.freeze()
    try:
        begun = time.monotonic()
        assert "did not answer within 2 s" in cli("ping", "w1").err
        assert time.monotonic() - begun < PROBE_SECONDS
        assert cli("ping", "w1", "--strict", fails=True).code == 1
    finally:
        redis.thaw()


@pytest.mark.parametrize("refusal", REFUSALS_OF_WRITES, ids=lambda refusal: refusal.__name__)
def test_while_redis_takes_no_writes_no_worker_counts_as_dead(
    cli: Cli, redis: RedisUnderTest, refusal: Callable[..., Any]
) -> None:
    with connect(redis.url) as client, refusal(client, redis) as word:
        eventually(lambda: "is alive" not in (found := cli("ping", "w1")).out and word in found.err, f"{word} is said")
        assert "umbel was trying" in cli("ping", "w2").err
        assert cli("ping", "w1", "--strict", fails=True).code == 1
        assert "did not answer" not in cli("start", "flows.py:Squares", "count=1", fails=True).err
    # Workers announce themselves within moments.
    eventually(lambda: any(worker.is_live for worker in announced(redis)), "the worker announces itself again")


def test_a_name_server_that_is_silent_is_not_waited_for_longer_than_a_probe_allows(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SILENT_NAME_SERVER)
    elsewhere = Cli(tmp_path, UMBEL_REDIS_URL="redis://redis.example/0", PYTHONPATH=str(tmp_path))

    begun = time.monotonic()
    assert "did not answer within 2 s" in elsewhere("ping").err
    assert time.monotonic() - begun < PROBE_SECONDS
