"""The Redis transport, with real Redis servers that are killed and real Celery workers that must live."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest
import redis
import transport_app
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.transport import redis as stock
from kombu.transport import virtual
from umbel.orchestration.errors import ConfigurationError
from umbel.workers import quarantine, transport, unacked
from umbel.workers.redis_binary import find_server
from umbel.workers.redis_serving import free_port


def eventually(condition: Callable[[], object], what: str, seconds: float = 25) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


@dataclass
class Server:
    """A Redis server that can be killed and started again at the same port."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, single_connection_client=True)

    def start(self) -> None:
        persist = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        command = [str(find_server()), "--port", str(self.port), "--dir", str(self.folder), *persist]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self.is_up, "the Redis server is up")

    def is_up(self) -> bool:
        with self.client as client, contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def die_under_subscribers_first(self) -> None:
        """End so that a worker notices it at another connection than the one it consumes from."""
        assert self.process is not None
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"CLIENT KILL TYPE pubsub\r\nSHUTDOWN NOSAVE\r\n")
            self.process.wait()

    def forget(self) -> None:
        """Lose all data, as a restart without persistence does."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def consumers(self) -> set[int]:
        """Ids of the connections that wait for messages."""
        with self.client as client:
            return {int(one["id"]) for one in client.client_list() if one["cmd"] == "brpop"}

    def ask(self, *command: Any) -> Any:
        with self.client as client:
            return client.execute_command(*command)


@dataclass
class Place:
    """One test's broker, files and workers."""

    server: Server
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    def worker(
        self,
        *arguments: str,
        kind: transport_app.Kind = "umbel",
        without: tuple[str, ...] = ("mingle", "gossip", "heartbeat"),
        await_start: bool = True,
    ) -> Worker:
        """Start a worker and wait until it consumes."""
        name = f"w{len(self.workers)}"
        settings = {"broker": self.server.url, "kind": kind, "options": self.options}
        environment = {**os.environ, "TRANSPORT_APP": json.dumps(settings), "TRANSPORT_APP_NAME": name}
        command = ["-m", "celery", "-A", "transport_app", "worker", "-l", "info", "-n", f"{name}@test", *arguments]
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command, *(f"--without-{part}" for part in without)],
                cwd=Path(__file__).parent,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        if await_start:
            eventually(lambda: worker.says(" ready."), f"worker {name} is ready")
        return worker

    def send(self, task: str, name: str) -> None:
        app = transport_app.build(self.server.url, "stock", self.options)
        with app.connection_for_write() as connection:
            app.send_task(task, (str(self.folder), name), connection=connection)

    def open(self, name: str) -> None:
        (self.folder / f"open-{name}").touch()

    def effects(self) -> list[str]:
        path = self.folder / "effects"
        return path.read_text().splitlines() if path.exists() else []

    def await_effects(self, *lines: str) -> None:
        def are_there() -> bool:
            found = [line.partition(" by ")[0] for line in self.effects()]
            return all(line in found for line in lines)

        eventually(are_there, f"effects {lines}, of {self.effects()}")

    def start_holding(self, worker: Worker, *names: str) -> None:
        """Send tasks that hold, and wait until all of them run and the worker knows it."""
        accepted = worker.says("Accepted hold")
        for name in names:
            self.send("hold", name)
        self.await_effects(*(f"start {name}" for name in names))
        eventually(lambda: worker.says("Accepted hold") == accepted + len(names), "the tasks are accepted")

    def await_all_acknowledged(self) -> None:
        prefix = self.options.get("global_keyprefix", "")

        def is_empty() -> bool:
            return not self.server.ask("EXISTS", prefix + "unacked", prefix + "unacked_index")

        eventually(is_empty, "nothing is un-acked")


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    log: Path

    def says(self, text: str) -> int:
        return self.log.read_text(errors="replace").count(text)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        return self.process.wait(timeout=20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Iterator[Place]:
    place = Place(server, tmp_path)
    yield place
    for worker in place.workers:
        worker.process.kill()
        worker.process.wait()


def break_connections(server: Server, worker: Worker) -> None:
    """Cut all connections of the worker while Redis lives, and wait until it consumes over a new one."""
    connected, last = worker.says("Connected to"), server.consumers()
    for kind in ("pubsub", "normal"):
        server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    eventually(lambda: server.consumers() - last, "the worker consumes again")
    assert worker.says("Connected to") > connected


# Outage


@pytest.mark.parametrize("is_empty_after", [False, True], ids=["data kept", "restarted empty"])
@pytest.mark.parametrize(("pool", "die"), [("prefork", Server.die_under_subscribers_first), ("threads", Server.kill)])
def test_a_redis_outage_ends_no_worker_and_repeats_no_task(
    pool: str, die: Callable[[Server], None], is_empty_after: bool, place: Place
) -> None:
    worker = place.worker("--pool", pool, "--concurrency", "3", without=())
    place.start_holding(worker, "ends-during-outage", "ends-after-it")

    die(place.server)
    eventually(lambda: worker.says("Cannot connect to"), "the worker has noticed")
    place.open("ends-during-outage")
    place.await_effects("end ends-during-outage")
    if is_empty_after:
        place.server.forget()
    place.server.start()
    eventually(lambda: worker.says("Connected to") == 2, "the worker reconnected")
    place.open("ends-after-it")
    place.await_effects("end ends-after-it")
    place.send("note", "next")

    place.await_effects("note next")
    place.await_all_acknowledged()
    assert Counter(place.effects()).most_common(1)[0][1] == 1
    assert worker.stop() == 0


def test_a_message_that_waited_in_the_worker_runs_after_an_outage(place: Place) -> None:
    place.options = {"visibility_timeout": 3600}
    worker = place.worker("--concurrency", "1", "--prefetch-multiplier", "2")
    place.start_holding(worker, "first")
    place.send("note", "waited")
    eventually(lambda: place.server.ask("HLEN", "unacked") == 2, "both are fetched")

    place.server.kill()
    eventually(lambda: worker.says("Cannot connect to"), "the worker has noticed")
    place.server.start()
    eventually(lambda: worker.says("Connected to") == 2, "the worker reconnected")
    place.open("first")

    place.await_effects("end first", "note waited")
    place.await_all_acknowledged()
    assert len(place.effects()) == 3


def test_kombus_own_transport_ends_in_an_outage(place: Place) -> None:
    """When this fails, kombu has learned it and `Channel._connparams` may go."""
    worker = place.worker("--concurrency", "2", kind="stock")
    place.start_holding(worker, "task")

    place.server.die_under_subscribers_first()

    eventually(lambda: worker.says("Unrecoverable error: AttributeError"), "the worker gives up")
    place.open("task")
    assert worker.process.wait(timeout=20) == 1


# Broken connections


@pytest.mark.parametrize(("pool", "kind"), [("prefork", "umbel"), ("threads", "umbel by setting")])
def test_a_broken_connection_repeats_nothing_that_runs(pool: str, kind: transport_app.Kind, place: Place) -> None:
    worker = place.worker("--pool", pool, "--concurrency", "4", kind=kind)
    place.start_holding(worker, "a", "b", "c")

    break_connections(place.server, worker)
    break_connections(place.server, worker)
    for name in "abc":
        place.open(name)
    place.await_effects("end a", "end b", "end c")
    place.send("note", "next")

    place.await_effects("note next")
    place.await_all_acknowledged()
    expected = {f"{what} {name}": 1 for what in ("start", "end") for name in "abc"}
    assert Counter(place.effects()) == {**expected, "note next by w0": 1}
    assert worker.stop() == 0


def test_a_broken_connection_repeats_nothing_that_waits_in_a_thread_pool(place: Place) -> None:
    worker = place.worker("--pool", "threads", "--concurrency", "1", "--prefetch-multiplier", "3")
    place.start_holding(worker, "runs")
    place.send("note", "waits")
    eventually(lambda: place.server.ask("HLEN", "unacked") == 2, "both are fetched")

    break_connections(place.server, worker)
    place.open("runs")

    place.await_effects("end runs", "note waits")
    place.await_all_acknowledged()
    assert len(place.effects()) == 3


def test_kombus_own_transport_repeats_what_runs_when_a_connection_breaks(place: Place) -> None:
    """When this fails, kombu has learned it and `QoS.restore_unacked_once` may go."""
    worker = place.worker("--pool", "threads", "--concurrency", "6", kind="stock")
    place.start_holding(worker, "a", "b", "c")

    break_connections(place.server, worker)

    eventually(lambda: Counter(place.effects())["start a"] == 2, "a task started twice")


@pytest.mark.parametrize("is_broken_before", [False, True], ids=["healthy", "after a broken connection"])
def test_a_cold_shutdown_puts_everything_un_acked_back(is_broken_before: bool, place: Place) -> None:
    worker = place.worker("--concurrency", "3")
    place.start_holding(worker, "a", "b")
    if is_broken_before:
        break_connections(place.server, worker)

    worker.stop(signal.SIGQUIT)

    assert place.server.ask("LLEN", "work") == 2
    place.await_all_acknowledged()


def test_a_task_whose_process_dies_after_a_broken_connection_is_put_back(place: Place) -> None:
    worker = place.worker("--concurrency", "1", "--prefetch-multiplier", "2")
    place.start_holding(worker, "a")
    break_connections(place.server, worker)

    children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)

    eventually(lambda: Counter(place.effects())["start a"] == 2, "the task started again")
    place.open("a")
    place.await_effects("end a")
    place.await_all_acknowledged()


# Messages that cannot be understood


def _message(content: Any = None, *, without: str = "", **changes: Any) -> bytes:
    """A proper message for `note`, and then something about it that is not."""
    content = json.dumps([["folder", "name"], {}, {}] if content is None else content).encode()
    properties = {"delivery_tag": "tag", "delivery_info": {"exchange": "", "routing_key": "work"}}
    message = {
        "body": base64.b64encode(content).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "note", "id": "1"},
        "properties": {**properties, "body_encoding": "base64"},
    }
    message = {**message, **changes}
    message.pop(without, None)
    return json.dumps(message).encode()


def _with_properties(**changes: Any) -> bytes:
    properties = json.loads(_message())["properties"]
    return _message(properties={**properties, **changes})


MALFORMED: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{not json", "expected JSON"),
    "no text": (b"\xff\xfe\x00", "expected JSON"),
    "nested too deeply": (b"[" * 100_000, "expected JSON"),
    "a list": (b"[1]", "expected a JSON object, found a list"),
    "a type kombu does not know": (b'{"__type__": "x", "__value__": 1}', "expected JSON"),
    "no properties": (b'{"body": "x"}', "'properties', found nothing"),
    "properties of a wrong type": (_message(properties=[]), "'properties', found a list"),
    "no tag": (_message(properties={}), "'properties.delivery_tag', found nothing"),
    "a tag of a wrong type": (_with_properties(delivery_tag={}), "'properties.delivery_tag', found an object"),
    "delivery_info of a wrong type": (_with_properties(delivery_info=1), "'properties.delivery_info', found a number"),
    "an unknown encoding": (_with_properties(body_encoding="rot13"), "body_encoding' (base64), found 'rot13'"),
    "an encoding of a wrong type": (_with_properties(body_encoding=[]), "body_encoding' (base64), found []"),
    "bad base64": (_message(body="abc"), "its body does not decode: Error('Incorrect padding')"),
    "no body": (_message(without="body"), "'body', found nothing"),
    "a body of a wrong type": (_message(body={}), "'body', found an object"),
    "a content type of a wrong type": (_message(**{"content-type": 1}), "'content-type', found a number"),
    "neither headers nor a task in the body": (_message({}, without="headers"), "a 'task' and an 'id'"),
    "headers of a wrong type": (_message(headers="x"), "'headers', found a text"),
    "null headers": (_message(headers=None), "'headers', found nothing"),
    "a task of a wrong type": (_message(headers={"task": [], "id": "1"}), "'headers.task', found a list"),
    "no id": (_message(headers={"task": "note"}), "'headers.id', found nothing"),
    "time limits of a wrong type": (_message(headers={"task": "note", "id": "1", "timelimit": 3}), "two time limits"),
    "compressed, but not really": (
        _message(headers={"task": "note", "id": "1", "compression": "application/x-gzip"}),
        "its body does not decompress",
    ),
    "a body that is no JSON": (_message(body=base64.b64encode(b"{").decode()), "does not deserialize"),
    "a content type that is not accepted": (
        _message(**{"content-type": "application/x-python-serialize"}),
        "untrusted content",
    ),
    "a body that is no triple": (_message([1, 2]), "expected [args, kwargs, embed] as the body of task 'note'"),
}


def test_messages_that_make_no_sense_cost_no_worker_and_no_other_message(place: Place) -> None:
    place.options = {"global_keyprefix": "shop:"}
    worker = place.worker("--concurrency", "2")
    place.start_holding(worker, "in flight")

    for raw, _ in MALFORMED.values():
        place.server.ask("LPUSH", "shop:work", raw)
    place.send("note", "after them")
    place.await_effects("note after them")
    place.open("in flight")
    place.await_effects("end in flight")
    place.await_all_acknowledged()

    assert worker.is_alive()
    assert worker.says("Connected to") == 1
    assert len(place.effects()) == 3
    kept = [json.loads(entry) for entry in place.server.ask("LRANGE", "shop:umbel:quarantine:work", 0, -1)]
    reasons = {entry["raw"].encode("latin-1"): entry["reason"] for entry in kept}
    assert reasons.keys() == {raw for raw, _ in MALFORMED.values()}
    assert [what for what, (raw, reason) in MALFORMED.items() if reason not in reasons[raw]] == [], reasons
    assert worker.says("Set aside a message of queue 'work'") == len(kept) == len(MALFORMED)


def test_messages_that_only_look_odd_are_carried_out(place: Place) -> None:
    worker = place.worker("--concurrency", "1")
    body = [[str(place.folder), "lean"], {}, None]
    lean = json.loads(_message(body))
    lean["properties"] = {"delivery_tag": "lean", "body_encoding": "base64"}
    del lean["content-encoding"]
    protocol_1 = {"task": "note", "id": "1", "args": [str(place.folder), "protocol 1"], "kwargs": {}}

    place.server.ask("LPUSH", "work", json.dumps(lean), _message(protocol_1, without="headers"))

    place.await_effects("note lean", "note protocol 1")
    place.await_all_acknowledged()
    assert worker.says("Set aside") == 0


def test_a_broadcast_that_makes_no_sense_is_dropped(place: Place) -> None:
    worker = place.worker("--concurrency", "1")

    for raw in (b'{"a": 1}', b"[]", b"{"):
        assert place.server.ask("PUBLISH", "/0.celery.pidbox", raw) == 1

    eventually(lambda: worker.says("that cannot be understood") == 2, "the worker has seen them")
    place.send("note", "next")
    place.await_effects("note next")
    assert worker.says("Connected to") == 1


@pytest.mark.parametrize("raw", [b"{not json", b'{"body": "x"}'], ids=["no JSON", "no properties"])
def test_kombus_own_transport_stumbles_over_a_message_that_makes_no_sense(raw: bytes, place: Place) -> None:
    """When this fails, kombu has learned it and `Channel._brpop_read` may go."""
    worker = place.worker("--concurrency", "1", kind="stock")

    place.server.ask("LPUSH", "work", raw)

    eventually(lambda: not worker.is_alive() or worker.says("Connection to broker lost"), "the worker stumbled")


def test_the_quarantine_of_a_queue_is_bounded_and_counts_on(server: Server) -> None:
    with server.client as client:
        for number in range(quarantine.KEPT_PER_QUEUE + 5):
            quarantine.set_aside(client, "shop:", "work", b"%d" % number, "odd")
        quarantine.set_aside(client, "shop:", "other", b"\xff" * (quarantine.KEPT_BYTES + 1), "long")

        found = transport.quarantined(client, "shop:")

        assert found["work"].count == quarantine.KEPT_PER_QUEUE + 5
        assert found["work"].kept == quarantine.KEPT_PER_QUEUE
        assert found["work"].latest is not None
        assert (found["work"].latest.raw, found["work"].latest.reason) == (b"1004", "odd")
        assert abs(found["work"].latest.at - time.time()) < 60
        assert found["other"].latest is not None
        assert found["other"].latest.raw == b"\xff" * quarantine.KEPT_BYTES
        assert found["other"].latest.size == quarantine.KEPT_BYTES + 1
        assert transport.quarantined(client) == {}
    with redis.Redis(port=server.port, decode_responses=True) as texts:
        assert transport.quarantined(texts, "shop:") == found


# Redis that refuses


def test_a_redis_out_of_memory_ends_no_worker_and_loses_no_message(place: Place) -> None:
    place.options = {"unacked_restore_interval": 0.5}
    worker = place.worker("--concurrency", "1")
    place.start_holding(worker, "first")
    place.send("hold", "second")

    place.server.ask("CONFIG", "SET", "maxmemory", 1)
    place.open("first")
    place.await_effects("start second")
    assert place.server.ask("HLEN", "unacked") == 0
    place.server.ask("CONFIG", "SET", "maxmemory", 0)

    eventually(lambda: place.server.ask("HLEN", "unacked") == 1, "the second message is filed after all")
    place.open("second")
    place.await_effects("end second")
    place.await_all_acknowledged()
    assert len(place.effects()) == 4
    assert worker.is_alive()


def test_a_redis_that_became_a_replica_ends_no_worker(place: Place) -> None:
    worker = place.worker("--concurrency", "3")
    place.start_holding(worker, "during", "after")

    place.server.ask("REPLICAOF", "127.0.0.1", free_port())
    eventually(lambda: worker.says("Connection to broker lost"), "the worker has noticed")
    place.open("during")
    place.await_effects("end during")
    place.server.ask("REPLICAOF", "NO", "ONE")
    place.open("after")
    place.send("note", "next")

    place.await_effects("end after", "note next")
    place.await_all_acknowledged()
    assert len(place.effects()) == 5
    assert worker.is_alive()


# Beside kombu's own transport


def test_stock_workers_share_queues_and_restore_what_was_left_behind(place: Place) -> None:
    place.options = {
        "visibility_timeout": 1,
        "unacked_restore_interval": 0.2,
        "unacked_restore_throttle": 1,
        "global_keyprefix": "shop:",
    }
    ours = place.worker("--concurrency", "1")
    place.start_holding(ours, "first")
    ours.process.kill()

    theirs = place.worker("--concurrency", "1", kind="stock")
    eventually(lambda: theirs.says("Accepted hold"), "kombu's transport found the message")
    place.open("first")
    place.await_effects("end first")
    place.start_holding(theirs, "second")
    theirs.process.kill()

    ours = place.worker("--concurrency", "1")
    eventually(lambda: ours.says("Accepted hold"), "umbel's transport found the message")
    place.open("second")
    place.await_effects("end second")
    place.await_all_acknowledged()


def test_stock_and_own_workers_empty_one_queue_together(place: Place) -> None:
    place.worker("--pool", "threads", "--concurrency", "1", await_start=False)
    place.worker("--pool", "threads", "--concurrency", "1", kind="stock", await_start=False)
    for worker in place.workers:
        eventually(lambda worker=worker: worker.says(" ready."), "the worker is ready")
    place.start_holding(place.workers[0], *())
    app = transport_app.build(place.server.url, "umbel", {})
    with app.connection_for_write() as connection:
        for number in range(200):
            app.send_task("note", (str(place.folder), str(number)), connection=connection)

    eventually(lambda: len(place.effects()) >= 200, "all ran")
    place.await_all_acknowledged()
    lines = [line.split() for line in place.effects()]
    assert sorted(int(line[1]) for line in lines) == list(range(200))
    assert {line[3] for line in lines} == {"w0", "w1"}


# Selecting it


def _app(broker: str, **settings: Any) -> celery.Celery:
    app = celery.Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(settings)
    return app


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@here:1234/5", "redis://:**@here:1234/5"),
        ("rediss://here:1234/5?ssl_cert_reqs=required", "rediss://:**@here:1234/5"),
        ("redis://here:1234/5;redis://there:1234/5", "redis://:**@here:1234/5"),
        ("redis+socket:///there.sock", "redis+socket:///there.sock"),
    ],
)
def test_redis_brokers_keep_their_url_and_get_this_transport(url: str, shown: str) -> None:
    app = _app(url)

    transport.use_transport(app)
    transport.use_transport(app)

    connection = app.connection_for_read()
    assert connection.get_transport_cls() is transport.Transport
    assert connection.clone().get_transport_cls() is transport.Transport
    assert connection.as_uri() == shown
    assert bool(connection.ssl) == url.startswith("rediss")
    assert app.conf.broker_channel_error_retry


def test_a_failover_keeps_this_transport() -> None:
    app = _app("redis://here:1234/5;redis://there:1234/5")
    transport.use_transport(app)
    connection = app.connection_for_read()

    connection.maybe_switch_next()

    assert connection.hostname == "there"
    assert connection.get_transport_cls() is transport.Transport


@pytest.mark.parametrize("url", ["sentinel://here:26379", "amqp://here", "memory://"])
def test_other_brokers_stay_with_kombu(url: str) -> None:
    app = _app(url)
    expected = app.connection_for_read().get_transport_cls()

    transport.use_transport(app)

    assert app.connection_for_read().get_transport_cls() is expected


def test_apps_that_were_not_asked_for_stay_with_kombu() -> None:
    transport.use_transport(_app("redis://here"))

    assert _app("redis://here").connection_for_read().get_transport_cls() is stock.Transport


def test_the_setting_alone_selects_this_transport() -> None:
    connection = _app("redis://here:1234/5", broker_transport=transport.TRANSPORT).connection_for_read()

    assert connection.get_transport_cls() is transport.Transport
    assert connection.as_uri() == "redis://:**@here:1234/5"


def test_an_app_with_a_connection_class_of_its_own_is_told_how_to_select_it() -> None:
    class OwnConnection(kombu.Connection):
        pass

    app = _app("redis://here")
    app.amqp.Connection = OwnConnection

    with pytest.raises(ConfigurationError, match="OwnConnection.*Set broker_transport='umbel.workers.transport:Tra"):
        transport.use_transport(app)


# What this rests on in kombu and Celery

#: Overridden method -> its signature in kombu, and how the text of its source begins as a SHA-256 if it is replaced
#: as a whole or relied on line by line. Look at what changed, follow it in the override, then renew the entry.
HOOKS: dict[tuple[type, str], tuple[str, str]] = {}

OVERRIDES = [
    (transport.Connection, kombu.Connection),
    (transport.Message, virtual.Message),
    (transport.Channel, stock.Channel),
    (transport.Transport, stock.Transport),
    (unacked.QoS, stock.QoS),
]
