"""Starts that the calling thread sends itself: with faults, forks, interruptions and a separate broker."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from support.eventually import eventually
from support.faults.proxy import Proxy, script
from umbel import Runtime, Settings, StartEvent, StopEvent, Workflow, step
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.orchestration.model.errors import RunExists, StoreUnavailable
from umbel.tasks.client import own_connection
from umbel.tasks.messages.dispatcher import transport_options
from umbel.workers.embedded.redis_server import EmbeddedRedis

PATIENCE = 20


class Flow(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


@pytest.fixture(scope="module")
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis.temporary(append_only=False) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(redis: EmbeddedRedis) -> Iterator[Proxy]:
    with Proxy(redis.url) as made:
        yield made


@pytest.fixture
def client(redis: EmbeddedRedis) -> Iterator[Client]:
    """A connection that bypasses the proxy."""
    client = connect(redis.url)
    yield client
    client.close()


@pytest.fixture
def runtime(proxy: Proxy) -> Iterator[Runtime]:
    """A runtime behind the proxy, without a worker."""
    runtime = Runtime(Settings(redis_url=proxy.url, key_prefix=f"t{secrets.token_hex(6)}"))
    yield runtime
    proxy.heal()
    runtime.close()


def begun(runtime: Runtime, run_id: str | None = None) -> str:
    return Flow(runtime=runtime).run(run_id=run_id).run_id


def is_running(runtime: Runtime, run_id: str) -> bool:
    return runtime.attach(run_id).status() == "running"


def messages(client: Client, runtime: Runtime) -> int:
    settings = runtime.settings
    return int(client.llen(f"{transport_options(settings)['global_keyprefix']}{settings.queue}"))


def own_connections(client: Client) -> int:
    """Return the number of connections whose last command was a script, as for starts."""
    return len({each["id"] for each in client.client_list() if each["cmd"] in ("evalsha", "eval", "fcall")})


def test_a_start_whose_answer_is_lost_is_applied_once(runtime: Runtime, proxy: Proxy, client: Client) -> None:
    begun(runtime)
    lost: list[None] = []
    proxy.lose_replies(script("start"), when_lost=lambda: lost.append(None))

    run_id = begun(runtime)

    assert lost == [None]
    assert is_running(runtime, run_id)
    assert messages(client, runtime) == 2


def test_starts_go_on_after_all_connections_were_reset(runtime: Runtime, proxy: Proxy, client: Client) -> None:
    for _ in range(5):
        begun(runtime)
        proxy.reset()
    begun(runtime)

    assert messages(client, runtime) == 6


def test_a_taken_id_is_refused(runtime: Runtime) -> None:
    begun(runtime, "mine")
    with pytest.raises(RunExists, match="mine"):
        begun(runtime, "mine")


def test_a_redis_that_is_away_is_an_error_after_the_patience_of_the_store() -> None:
    with EmbeddedRedis.temporary(append_only=False) as server:
        runtime = Runtime(Settings(redis_url=server.url))
        runtime.store.patience_seconds = 0.05
        begun(runtime)
    with pytest.raises(StoreUnavailable, match="did not answer within 0.05 s"):
        begun(runtime)
    runtime.close()


def test_a_message_for_a_broker_elsewhere_is_sent_before_run_returns(proxy: Proxy, redis: EmbeddedRedis) -> None:
    elsewhere = redis.url.rpartition("/")[0] + "/1"
    runtime = Runtime(Settings(redis_url=proxy.url, broker_url=elsewhere, key_prefix=f"t{secrets.token_hex(6)}"))
    there = connect(elsewhere)

    begun(runtime)

    assert messages(there, runtime) == 1
    there.close()
    runtime.close()


async def test_a_run_can_be_started_on_an_event_loop(runtime: Runtime) -> None:
    assert await asyncio.to_thread(is_running, runtime, begun(runtime))


def test_many_threads_start_at_the_same_time_and_few_connections_are_kept(runtime: Runtime, client: Client) -> None:
    before = own_connections(client)
    with ThreadPoolExecutor(16) as threads:
        run_ids = list(threads.map(lambda _: begun(runtime), range(200)))

    assert len(set(run_ids)) == 200
    assert messages(client, runtime) == 200
    # One more belongs to the portal's loop, which was used while Redis did not have the script.
    eventually(lambda: own_connections(client) - before <= own_connection._KEPT + 1, "the others were closed")


def test_closing_the_runtime_closes_them(proxy: Proxy, client: Client) -> None:
    runtime = Runtime(Settings(redis_url=proxy.url, key_prefix=f"t{secrets.token_hex(6)}"))
    before = own_connections(client)
    begun(runtime)
    runtime.close()

    eventually(lambda: own_connections(client) <= before, "all are closed")


def test_with_direct_starts_off_one_connection_remains(proxy: Proxy, client: Client) -> None:
    runtime = Runtime(Settings(redis_url=proxy.url, key_prefix=f"t{secrets.token_hex(6)}", direct_starts=False))
    before = own_connections(client)
    begun(runtime)
    begun(runtime)

    assert own_connections(client) == before + 1
    runtime.close()


class OutOfTime(TimeoutError):
    """Raised by the test's own signal handler."""


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_an_interrupted_start_raises_and_the_next_one_gets_its_own_answer(runtime: Runtime, proxy: Proxy) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    begun(runtime)
    before = signal.signal(signal.SIGALRM, interrupt)
    proxy.delay(1.0)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(OutOfTime):
            begun(runtime)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    proxy.heal()

    assert is_running(runtime, begun(runtime))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_runs_over_a_connection_of_its_own(runtime: Runtime, client: Client) -> None:
    begun(runtime)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(PATIENCE)
            begun(runtime, "childs")
            os._exit(0)
        except BaseException:
            os._exit(4)
    begun(runtime, "parents")

    assert os.waitpid(child, 0)[1] == 0
    assert is_running(runtime, "childs")
    assert is_running(runtime, "parents")
    assert messages(client, runtime) == 3
