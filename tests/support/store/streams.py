"""A Redis that can be killed and restarted, runs that publish on demand, and readers in threads."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgpack

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.driving import DrivenRun, event, plan_of, step, stop
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.commands import Command, Publish
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.store.nodes import connection_to
from umbel.orchestration.store.replies import Applied
from umbel.orchestration.store.verbs import Store as AsyncStore
from umbel.orchestration.streams.reader import StreamEvent, StreamHub, StreamReader
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port

PROGRESS = "app.Progress"
PATIENCE = 20.0


class KillableRedis:
    """A Redis for one test. With `is_durable`, a kill loses nothing that was acknowledged."""

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.durability = ["--appendonly", "yes", "--appendfsync", "always"] if is_durable else ["--appendonly", "no"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on the same port and data, and wait until it accepts connections."""
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--logfile", "redis.log"]
        self.process = subprocess.Popen([str(find_server()), *where, "--save", "", *self.durability])
        probe = connect(self.url)
        eventually(lambda: _answers(probe), "Redis serves")
        probe.close()

    def kill(self) -> None:
        """Kill it, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def _answers(client: Client) -> bool:
    try:
        return bool(client.ping())
    except Exception:
        return False


def store_on(url: str, prefix: str, **more: object) -> Store:
    """Return a store with its own key prefix."""
    return blocking_store(Settings(redis_url=url, key_prefix=prefix, **more))


class OwnHub(StreamHub):
    """A hub with its own portal, which is closed with it."""

    def __init__(self, store: Store, *, silence_seconds: float = 5.0, **options: Any) -> None:
        """Read from the Redis of a blocking store, with the same patience; `options` are those of `StreamHub`."""
        url = store.settings.redis_url
        assert url is not None
        connection = connection_to(url, Portal("umbel-own-hub"), silence_seconds=silence_seconds)
        super().__init__(AsyncStore(connection, store.settings, patience_seconds=store.patience_seconds), **options)

    def close(self) -> None:
        super().close()
        self.store.connection.portal.close()


class Wire:
    """A connection path to Redis that can go dead without being closed, as with a lost machine or a firewall."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._links: list[tuple[socket.socket, threading.Event]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def go_dead(self) -> None:
        """Drop all further traffic of the open connections, without notifying either side."""
        for _, is_dead in self._links:
            is_dead.set()

    def close(self) -> None:
        """Close all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link, _ in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far, is_dead = socket.create_connection(("127.0.0.1", self._target)), threading.Event()
                self._links += [(near, is_dead), (far, is_dead)]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink, is_dead), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, is_dead: threading.Event) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not is_dead.is_set():
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


class Telling(DrivenRun):
    """A run whose only step is executing and publishes what the test passes."""

    def __init__(self, store: Store, run_id: str | None = None) -> None:
        super().__init__(store, plan_of(step("go", START, num_workers=1)), run_id)
        self.start()
        self.work = self.claim("go")
        self.batches = 0

    def tell(self, *numbers: int) -> None:
        """Publish one Progress per number."""
        self.publish(*(event(PROGRESS, n=n) for n in numbers))

    def publish(self, *events: Envelope) -> None:
        """Publish events in one burst, as the step's code would."""
        self.batches += 1
        publishes = [Publish(each, "go", self.work.attempt) for each in events]
        assert isinstance(self.flush(self.work, self.batches, publishes=publishes), Applied)

    def apply(self, *commands: Command) -> None:
        """Apply commands as a routed event would."""
        self.batches += 1
        sends = [(f"s{self.batches}", commands)]
        around = self.store.surroundings(self.run_id)
        applied = self.store.flush(
            self.work, self.plan, batch=self.batches, surroundings=around, publishes=(), sends=sends
        )
        assert isinstance(applied, Applied)

    def end(self) -> None:
        """The step returns a StopEvent."""
        self.commit(self.work, stop("done"), batches=self.batches)

    def tell_unheard(self, number: int) -> None:
        """Publish one Progress whose live message is lost: only the log has it."""
        seq = int(self.store.client.hget(self.keys["run"], "seq") or 0)
        content = msgpack.packb([event(PROGRESS, n=number).to_bytes(), "go", 1], use_bin_type=False)
        with self.store.client.pipeline(transaction=True) as pipe:
            pipe.hincrby(self.keys["run"], "seq", 1).xadd(self.keys["stream"], {"d": content}, id=f"{seq}-1")
            pipe.execute()


class Reading:
    """A blocking reader in its own thread."""

    def __init__(self, reader: StreamReader) -> None:
        self.reader = reader
        self._found: SimpleQueue[StreamEvent | Exception | None] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for found in self.reader.events():
                self._found.put(found)
            self._found.put(None)
        except Exception as error:
            self._found.put(error)

    def next(self) -> StreamEvent | None:
        """Return the next event, or None at the end."""
        found = self._found.get(timeout=PATIENCE)
        if isinstance(found, Exception):
            raise found
        return found

    def number(self) -> int:
        """Return the number of the next event, which must be a Progress."""
        found = self.next()
        assert found is not None
        assert found.envelope.type == PROGRESS
        number: int = found.envelope.value()["n"]
        return number

    def rest(self) -> list[StreamEvent]:
        """Return all further events up to the end."""
        return list(iter(self.next, None))


def numbers(events: Iterable[StreamEvent]) -> list[int]:
    """Return the numbers of the Progress events among them."""
    return [found.envelope.value()["n"] for found in events if found.envelope.type == PROGRESS]


def types(events: Iterable[StreamEvent]) -> list[str]:
    """Return the wire names of the events."""
    return [found.envelope.type for found in events]


def listeners(client: Client) -> int:
    """Return how many connections of this Redis have a subscription."""
    return len(client.client_list(_type="pubsub"))


def is_followed(run: DrivenRun) -> bool:
    """Return whether the run's live channel has a subscriber."""
    channel = run.keys["stream"]
    return bool(run.store.client.pubsub_numsub(channel)[0][1])
