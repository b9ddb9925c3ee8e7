"""`umbel doctor` on a Redis that answers, and refuses: it says so, with what helps, and calls no worker dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.eventually import eventually
from support.faults.redis_under_test import RedisUnderTest
from support.faults.refusals import REFUSALS, a_replica, full
from umbel import Settings
from umbel.orchestration.connection.redis_client import RIGHTS, connect
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine
from umbel.workers.doctor.redis_rules import Finding
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.supervisor import Supervisor

#: What a server answers with -> what is said of it, and what helps.
SAID = {
    "OOM": ("is full", "Raise maxmemory"),
    "READONLY": ("is a replica", "name the primary"),
    "NOREPLICAS": ("has fewer replicas", "Start its replicas"),
    "MISCONF": ("cannot write to its disk", "Make room on that disk"),
    "BUSY": ("executes a script", "SCRIPT KILL"),
}


@pytest.fixture
def redis(tmp_path: Path, supervisor: Supervisor) -> Iterator[RedisUnderTest]:
    server = RedisUnderTest(tmp_path / "redis", supervisor)
    yield server
    server.close()


def dangers(url: str) -> tuple[list[Finding], str]:
    """Return the dangers that are found, and the text of all findings."""
    settings = Settings(redis_url=url)
    found = examine(settings, create_app(settings))
    return [each for each in found if each.level == "danger"], " ".join(each.text for each in found)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.__name__)
def test_a_server_that_refuses_is_a_danger_with_what_helps(redis: RedisUnderTest, refusal: Callable[..., Any]) -> None:
    with connect(redis.url) as client, refusal(client, redis) as word:
        why, fix = SAID[word]
        eventually(lambda: any(why in each.text for each in dangers(redis.url)[0]), f"{word} is found")
        grave, everything = dangers(redis.url)

    assert any(why in each.text and fix in each.fix for each in grave)
    assert "does not answer" not in everything
    assert "No live worker" not in everything


@pytest.mark.parametrize("refusal", [full, a_replica], ids=lambda refusal: refusal.__name__)
def test_a_user_who_may_not_ask_what_the_server_is_set_to_learns_that_it_refuses(
    redis: RedisUnderTest, refusal: Callable[..., Any]
) -> None:
    with connect(redis.url) as client, refusal(client, redis) as word:
        client.execute_command("ACL", "SETUSER", "few", "on", ">secret", *RIGHTS.split())
        at = urlsplit(redis.url)
        [found] = dangers(f"redis://few:secret@{at.hostname}:{at.port}/0")[0]

    assert SAID[word][0] in found.text
    assert SAID[word][1] in found.fix


def test_memory_in_use_is_a_danger_once_it_reaches_the_limit(redis: RedisUnderTest) -> None:
    with connect(redis.url) as client:
        client.config_set("maxmemory", "64mb")
        assert dangers(redis.url)[0] == []
        client.config_set("maxmemory", 1)
        [memory] = [each for each in dangers(redis.url)[0] if each.about == "memory"]

    assert "% of maxmemory is in use: the server refuses writes" in memory.text


def test_a_server_that_loads_is_not_said_to_lose_data(
    redis: RedisUnderTest, supervisor: Supervisor, tmp_path: Path
) -> None:
    with connect(redis.url) as client:
        client.mset({f"key{n}": "value" for n in range(20_000)})
        client.bgrewriteaof()
        [manifest] = redis.folder.glob("appendonlydir/*.manifest")
        eventually(lambda: ".2.base.rdb" in manifest.read_text(), "the log is rewritten")
    redis.kill()
    port = free_port()
    slowly = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"]  # 2 ms per key
    command = [str(find_server(search_path="")), "--port", str(port), "--dir", str(redis.folder), "--appendonly", "yes"]
    with (tmp_path / "log").open("wb") as log:
        server = supervisor.spawn([*command, *slowly], cwd=tmp_path, output=log.fileno())
    try:
        loading = "is loading its data"
        url = f"redis://127.0.0.1:{port}/0"
        eventually(lambda: loading in dangers(url)[1], "it loads")
        grave = dangers(url)[0]
        assert {each.about for each in grave} <= {"broker", "redis"}
        assert all(loading in each.text and each.fix == "Wait until it is done." for each in grave)
    finally:
        supervisor.stop(server, within_seconds=5)
