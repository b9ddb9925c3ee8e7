"""The deployment record: a process with other settings reports it and reads, writes and starts nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import pytest
from redis.exceptions import ResponseError

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import Deploy
from umbel import Settings
from umbel.orchestration.connection.deployment import SCHEMA, Deployment
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.model.errors import ConfigurationError, RunNotFound
from umbel.tasks.client.runtime import Runtime
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine
from umbel.workers.embedded.redis_server import EmbeddedRedis


@contextmanager
def runtime_with(settings: Settings, **other: Any) -> Iterator[Runtime]:
    """A runtime with some different settings."""
    runtime = Runtime(settings.model_copy(update=other))
    try:
        yield runtime
    finally:
        runtime.close()


def start(runtime: Runtime) -> None:
    """Start a run that no worker executes."""
    flows.Chain(runtime=runtime).start(n=1)


def read(runtime: Runtime) -> None:
    """Look up a run that does not exist."""
    with suppress(RunNotFound):
        runtime.attach("no-such-run")


def record_of(client: Any, settings: Settings) -> Any:
    """Return the record in Redis."""
    raw = client.get(Deployment(settings.key_prefix, settings.shards).record)
    return raw and json.loads(raw)


def forget_record(client: Any, settings: Settings) -> None:
    """Delete the record, as in a deployment of an older release."""
    assert client.delete(Deployment(settings.key_prefix, settings.shards).record)


@pytest.mark.parametrize("act", [start, read])
@pytest.mark.parametrize("first", [start, read])
def test_a_process_with_another_number_of_shards_does_nothing_and_says_which_is_right(
    client: Any, settings: Settings, first: Callable[[Runtime], None], act: Callable[[Runtime], None]
) -> None:
    with runtime_with(settings) as runtime:
        first(runtime)
    assert record_of(client, settings) == {"key_prefix": settings.key_prefix, "shards": 2, "schema": SCHEMA}
    keys = set(client.scan_iter(f"{settings.key_prefix}:*", count=1000))
    with runtime_with(settings, shards=3) as runtime, pytest.raises(ConfigurationError, match="Set UMBEL_SHARDS=2"):
        act(runtime)
    assert set(client.scan_iter(f"{settings.key_prefix}:*", count=1000)) == keys
    with runtime_with(settings) as runtime:
        act(runtime)


@pytest.mark.parametrize(("before", "now"), [(16, 8), (8, 16), (2, 1024)])
@pytest.mark.parametrize("act", [start, read])
def test_runs_of_a_deployment_without_a_record_must_be_where_the_number_of_shards_puts_them(
    client: Any, settings: Settings, before: int, now: int, act: Callable[[Runtime], None]
) -> None:
    with runtime_with(settings, shards=before) as runtime:
        for _ in range(24):  # the probability that all of them are where either number puts them is 1 in 2 ** 24
            start(runtime)
    forget_record(client, settings)
    with (
        runtime_with(settings, shards=now) as runtime,
        pytest.raises(ConfigurationError, match="another number of shards"),
    ):
        act(runtime)
    assert record_of(client, settings) is None
    with runtime_with(settings, shards=before) as runtime:
        act(runtime)
    assert record_of(client, settings)["shards"] == before


def test_keys_of_another_schema_are_not_touched(client: Any, settings: Settings) -> None:
    record = {"key_prefix": settings.key_prefix, "shards": settings.shards, "schema": SCHEMA + 1}
    client.set(Deployment(settings.key_prefix, settings.shards).record, json.dumps(record))
    with runtime_with(settings) as runtime, pytest.raises(ConfigurationError, match=f"has keys of schema {SCHEMA + 1}"):
        start(runtime)


def test_a_new_key_prefix_beside_other_deployments_is_logged(
    client: Any, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with runtime_with(settings) as runtime:
        read(runtime)
    caplog.clear()
    other = f"{settings.key_prefix}:other"
    with caplog.at_level(logging.WARNING), runtime_with(settings, key_prefix=other) as runtime:
        read(runtime)
        read(runtime)
    (said,) = [each.getMessage() for each in caplog.records if each.name == "umbel.deployment"]
    assert f"begins a new deployment with key prefix {other!r}" in said
    assert repr(settings.key_prefix) in said
    assert "correct UMBEL_KEY_PREFIX" in said


def test_a_user_who_may_ask_for_nothing_but_its_own_keys_writes_the_record(client: Any, settings: Settings) -> None:
    name, own = f"u{settings.key_prefix}", settings.key_prefix
    commands = ["+@all", "-dbsize", "-scan", "-exists", "-info"]
    client.acl_setuser(
        name, enabled=True, passwords=["+word"], keys=[f"{own}:*"], channels=[f"{own}:*"], commands=commands
    )
    try:
        at = str(settings.redis_url).rpartition("@")[2]
        with runtime_with(settings, redis_url=f"redis://{name}:word@{at}") as runtime:
            start(runtime)
        assert record_of(client, settings)["shards"] == 2
    finally:
        client.acl_deluser(name)


def test_the_doctor_says_that_the_number_of_shards_is_another(settings: Settings) -> None:
    with runtime_with(settings) as runtime:
        read(runtime)
    changed = settings.model_copy(update={"shards": 5})
    (finding,) = [each for each in examine(changed, create_app(changed)) if each.about == "deployment"]
    assert finding.level == "danger"
    assert "has 2 shards, and this process is set to 5" in finding.text


@pytest.mark.parametrize(
    "command", [["worker", "support.flows.everyday"], ["runs"], ["serve", "support.flows.everyday"]]
)
def test_a_command_with_another_number_of_shards_ends_and_says_so(deploy: Deploy, command: list[str]) -> None:
    deployment = deploy()
    handler = deployment.start(flows.Chain, n=4)
    changed = deployment.launch("changed", "umbel.workers.cli", *command, more={"UMBEL_SHARDS": "7"})
    eventually(lambda: changed.process.poll() is not None, "it has ended")
    assert changed.process.returncode == 1
    assert "has 16 shards, and this process is set to 7" in changed.log()
    assert "Traceback" not in changed.log()
    assert handler.status() == "running"


def test_a_busy_redis_is_waited_for_and_no_record_is_written_without_a_look_at_the_runs() -> None:
    with EmbeddedRedis.temporary(append_only=False) as server:
        settings = Settings(redis_url=server.url)
        with runtime_with(settings, shards=8) as runtime:
            for _ in range(24):
                start(runtime)
        with connect(server.url) as client, connect(server.url, timeout_seconds=60) as busy:
            forget_record(client, settings)
            client.config_set("busy-reply-threshold", 1)
            looping = Thread(target=_loop_for_ever, args=(busy,))
            looping.start()
            eventually(lambda: _is_busy(client), "a script runs for ever")
            with runtime_with(settings, shards=16) as runtime, ThreadPoolExecutor(1) as thread:
                reading = thread.submit(read, runtime)
                with pytest.raises(TimeoutError):
                    reading.result(timeout=0.5)
                client.script_kill()
                with pytest.raises(ConfigurationError, match="another number of shards"):
                    reading.result(timeout=10)
            looping.join()
            assert record_of(client, settings) is None


def _loop_for_ever(client: Any) -> None:
    with pytest.raises(ResponseError, match="killed"):
        client.eval("while true do end", 0)


def _is_busy(client: Any) -> bool:
    try:
        client.ping()
    except ResponseError as error:
        return str(error).startswith("BUSY")
    return False
