"""User data in events and state stays in the state Redis: logs, broker messages and monitors never show it."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.eventually import eventually
from support.flows import leaky as flows
from support.processes.driving import Deploy, Deployment
from umbel.tasks.messages.template import HEADER
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine

SECRET = flows.SECRET


@pytest.fixture(scope="module")
def deployment(deploy_for_module: Deploy) -> Deployment:
    return deploy_for_module(payload_warn_bytes=2_000)


def password_of(deployment: Deployment) -> str:
    password = urlsplit(deployment.settings.redis_url or "").password
    assert password
    return password


@pytest.mark.parametrize("pool", ["asyncio", "threads"])
def test_payloads_and_passwords_are_in_no_log_and_no_monitor_event(deployment: Deployment, pool: str) -> None:
    """At the most verbose level, over a run that fans out, waits, keeps state, streams, retries and warns of size."""
    app = create_app(deployment.settings)
    seen: list[dict[str, Any]] = []
    receivers: list[Any] = []

    def receive() -> None:
        with app.connection_for_read() as connection:
            receivers.append(app.events.Receiver(connection, handlers={"*": seen.append}))
            receivers[0].capture(limit=None, timeout=None, wakeup=False)

    listener = threading.Thread(target=receive, daemon=True)
    listener.start()
    options = ["--pool", pool, "--concurrency", "4", "--loglevel", "DEBUG", "-E", "--name", pool]
    worker = deployment.launch(pool, "umbel.workers.cli", "worker", "support.flows.leaky", *options).wait_ready()

    handler = deployment.start(flows.Leaky, secret=SECRET * 200)
    handler.send_event(flows.Answer(secret=SECRET))
    assert handler.result(40) == SECRET

    expected = {"task-received", "task-succeeded"}
    eventually(lambda: expected <= {each["type"] for each in seen}, "task events have come")
    receivers[0].should_stop = True
    worker.kill_group()
    listener.join(20)
    assert not listener.is_alive()
    log = worker.log()
    assert "more than 2,000 (payload_warn_bytes)" in log
    assert "failed on attempt 1" in log
    assert SECRET not in log
    assert password_of(deployment) not in log
    assert expected <= {each["type"] for each in seen}
    assert SECRET not in str(seen)


def test_messages_in_the_broker_are_ids(deployment: Deployment) -> None:
    handler = deployment.start(flows.Leaky, secret=SECRET)  # no worker claims it
    client = deployment.store.client
    queues = [
        key for key in client.scan_iter(f"{deployment.settings.key_prefix}:broker:*") if client.type(key) == b"list"
    ]
    raw = b"".join(message for key in queues for message in client.lrange(key, 0, -1))

    assert handler.run_id.encode() in raw
    assert HEADER.encode() in raw
    assert SECRET.encode() not in raw
    assert password_of(deployment).encode() not in raw
    handler.cancel()


def test_the_doctor_shows_neither(deployment: Deployment) -> None:
    handler = deployment.start(flows.Leaky, secret=SECRET)
    found = str(examine(deployment.settings, create_app(deployment.settings)))

    assert SECRET not in found
    assert password_of(deployment) not in found
    handler.cancel()


@pytest.mark.parametrize(
    "arguments",
    [
        ["x|y{}*", "w", 1],
        ["../../etc", "w", 1],
        [{"$ne": 1}, "w", 1],
        ["a" * 100_000, "w", 1],
        ["run", {"w": 1}, 1],
        ["run", "w", "one"],
        ["run", "w", 10**30],
        [None, None, None],
        [],
        ["run", "w", 1, "more"],
    ],
    ids=[
        "marks of keys",
        "a path",
        "an object",
        "very long",
        "an object as work",
        "text",
        "huge",
        "nulls",
        "none",
        "four",
    ],
)
def test_a_forged_dispatch_changes_nothing_and_costs_no_worker(forged: Deployment, arguments: list[Any]) -> None:
    before = run_keys(forged)
    create_app(forged.settings).send_task(
        "Leaky.ask",
        args=arguments,
        queue=forged.settings.queue,
        headers={HEADER: "support.flows.leaky.Leaky"},
        retry=False,
    )

    assert forged.start(flows.Plain).result(40) == "done"  # sent after it, so executed after it
    assert forged.workers[0].process.poll() is None
    new = run_keys(forged) - before
    assert {key for key in new if b"x|y" in key or b"../" in key or b"a" * 50 in key} == set()
    eventually(lambda: forged.store.runs(status="running") == [], "no run is left")


@pytest.fixture(scope="module")
def forged(deploy_for_module: Deploy) -> Deployment:
    """A deployment with one single-threaded worker: messages are processed in the order in which they are sent."""
    made = deploy_for_module()
    made.worker("only", "support.flows.leaky", pool="threads", concurrency=1).wait_ready()
    return made


def run_keys(deployment: Deployment) -> set[bytes]:
    return set(deployment.store.client.scan_iter(f"{deployment.settings.key_prefix}:{{*"))
