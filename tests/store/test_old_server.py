"""A server that is too old is refused by everything that uses it, before any other command, and the error says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.eventually import eventually
from support.faults.old_server import old_server
from support.flows import everyday as flows
from support.processes.driving import Deploy
from umbel import ConfigurationError, Settings
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.orchestration.model.releases import Release
from umbel.orchestration.store.pipeline import Connection
from umbel.tasks.client.runtime import Runtime
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine

WHAT_WAS_FOUND = r"is Redis 6\.2\.20, which is too old: umbel needs Redis 7\.0 or Valkey 7\.2, or newer\. Upgrade it"


@pytest.fixture
def old_url() -> Iterator[str]:
    with old_server() as url:
        yield url


def test_a_client_is_refused_at_its_first_call(old_url: str) -> None:
    runtime = Runtime(Settings(redis_url=old_url))
    with pytest.raises(ConfigurationError, match=WHAT_WAS_FOUND) as refused:
        flows.Chain(runtime=runtime).start(n=1)
    assert "secret" not in str(refused.value)
    assert "or set UMBEL_REDIS_URL to a newer server" in str(refused.value)
    with pytest.raises(ConfigurationError, match=WHAT_WAS_FOUND):
        flows.Chain(runtime=runtime).start(n=1)
    runtime.close()


def test_a_worker_ends_at_its_start(deploy: Deploy, old_url: str) -> None:
    worker = deploy().worker("one", pool="solo", more={"UMBEL_REDIS_URL": old_url})

    eventually(lambda: worker.process.poll() is not None, "the worker has ended")

    assert worker.process.returncode != 0
    assert "is Redis 6.2.20, which is too old" in worker.log()
    assert "secret" not in worker.log()


def test_the_doctor_reports_it_and_asks_nothing_more(old_url: str) -> None:
    settings = Settings(redis_url=old_url)

    found = examine(settings, create_app(settings))

    assert [each.text for each in found if each.about == "version"] == [
        "Redis 6.2.20 is too old: umbel needs Redis 7.0 or Valkey 7.2, or newer."
    ]
    assert [each for each in found if each.about in ("redis", "worker")] == []


def test_a_server_that_forbids_the_question_is_used(client: Client, redis_url: str, prefix: str) -> None:
    """Hosted servers may forbid INFO."""
    client.acl_setuser(prefix, enabled=True, passwords=["+word"], keys=["*"], commands=["+@all", "-info"])
    portal = Portal("test")
    try:
        at = redis_url.rpartition("@")[2]
        connection = Connection(f"redis://{prefix}:word@{at}", portal, patience_seconds=0)
        assert portal.call(connection.command("look", "PING")) == b"PONG"
        with connect(connection.url) as connected, pytest.raises(Exception, match="no permissions"):
            connected.info("server")
    finally:
        portal.close()
        client.acl_deluser(prefix)


@pytest.mark.parametrize(
    ("info", "release"),
    [
        ({"redis_version": "7.0.15"}, Release("Redis", (7, 0, 15))),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, Release("Valkey", (9, 1, 2))),
        ({"redis_version": "255.255.255"}, Release("Redis", (255, 255, 255))),
        ({"uptime_in_seconds": "1"}, None),
    ],
)
def test_a_release_is_what_the_server_calls_itself(info: dict[str, str], release: Release | None) -> None:
    assert Release.of_info(info) == release


@pytest.mark.parametrize(
    ("product", "version", "is_new_enough"),
    [
        ("Redis", "6.2.20", False),
        ("Redis", "7.0.0", True),
        ("Redis", "7.0", True),
        ("Redis", "10.1.0", True),
        ("Valkey", "7.2.5", True),
        ("Valkey", "7.0.0", False),
    ],
)
def test_a_release_with_functions_is_new_enough(product: str, version: str, is_new_enough: bool) -> None:
    assert Release.parse(product, version).is_new_enough == is_new_enough
