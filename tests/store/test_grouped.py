"""One connection for all coroutines of a loop: each gets its own reply, whatever happens to the others and to Redis."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.exceptions import ResponseError

from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.orchestration.model.errors import ConfigurationError, StoreUnavailable
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.scripts import Library, Script
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.redis_server import EmbeddedRedis


def ask(lua: str, key: str = "k", *args: str, what: str = "try", flags: str = "") -> ScriptCall[Any]:
    """Return a call of a script whose reply is returned unchanged."""
    name = "{--[[library]]}_test"
    library = Library.of(
        f"redis.register_function{{ function_name = '{name}', flags = {{ {flags} }}, "
        f"callback = function(KEYS, ARGV) {lua} end }}"
    )
    script = Script("test", library, f"{library.name}_test", ("key",), {"key": 0})
    return ScriptCall(what, script, [key], [arg.encode() for arg in args], lambda reply: reply)


def here() -> Portal:
    """Return a portal of the running loop."""
    return Portal("test", asyncio.get_running_loop())


def echo(text: str) -> ScriptCall[Any]:
    return ask("return ARGV[1]", "k", text, flags="'no-writes'")


def put(key: str, value: str) -> ScriptCall[Any]:
    return ask("redis.call('SET', KEYS[1], ARGV[1]) return 'put'", key, value)


def append(text: str) -> ScriptCall[Any]:
    return ask("return redis.call('RPUSH', KEYS[1], ARGV[1])", "list", text)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A Redis for this file alone, whose configuration may be changed."""
    with EmbeddedRedis.temporary(append_only=False) as made:
        yield made


@pytest.fixture
def control(server: EmbeddedRedis) -> Iterator[Client]:
    """A separate operator connection."""
    client = connect(server.url)
    client.flushdb()
    yield client
    client.close()


@pytest_asyncio.fixture
async def group(server: EmbeddedRedis, control: Client) -> AsyncIterator[Connection]:
    made = Connection(server.url, here(), patience_seconds=20)
    yield made
    await made.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_each_caller_gets_the_answer_to_its_own_request(group: Connection) -> None:
    answers = await asyncio.gather(*(group.run(echo(str(n))) for n in range(500)))
    assert answers == [str(n).encode() for n in range(500)]


async def test_what_is_asked_in_one_turn_goes_out_together_on_one_connection(
    group: Connection, control: Client
) -> None:
    await group.run(echo("connected"))
    before = control.info("stats")
    await asyncio.gather(*(group.run(echo(str(n))) for n in range(300)))
    after = control.info("stats")
    assert after["total_commands_processed"] - before["total_commands_processed"] >= 300
    assert after["total_reads_processed"] - before["total_reads_processed"] <= 30  # Redis reads 16 KB at a time
    assert after["total_connections_received"] == before["total_connections_received"]


async def test_ungrouped_each_question_waits_for_the_answer_before_it(server: EmbeddedRedis, control: Client) -> None:
    group = Connection(server.url, here(), patience_seconds=20, grouped=False)
    await group.run(append("connected"))
    before = control.info("stats")["total_reads_processed"]
    asking = [asyncio.ensure_future(group.run(append(str(n)))) for n in range(99)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    control.client_kill_filter(_type="normal", skipme=True)
    answers = await asyncio.gather(*asking)
    assert control.info("stats")["total_reads_processed"] - before >= 99
    assert answers == sorted(set(answers))
    assert len(answers) == 99
    pushed = control.lrange("list", 0, -1)
    assert list(dict.fromkeys(pushed)) == [b"connected", *(str(n).encode() for n in range(99))]
    assert len(pushed) <= 101  # the one in progress may have been applied before the connection broke
    await group.close()


async def test_questions_are_answered_in_the_order_they_are_asked_in(group: Connection, control: Client) -> None:
    def never(error: Exception) -> None:
        raise AssertionError(error)

    await group.run(append("Redis knows the script"))
    control.delete("list")
    asking = []
    for n in range(0, 100, 2):
        asking.append(asyncio.ensure_future(group.run(append(str(n)))))
        await asyncio.sleep(0)
        group.post(("RPUSH", "list", str(n + 1)), never)
    assert await asyncio.gather(*asking) == list(range(1, 101, 2))
    await until(lambda: control.llen("list") == 100)
    assert control.lrange("list", 0, -1) == [str(n).encode() for n in range(100)]


async def test_a_script_that_fails_affects_no_other(group: Connection) -> None:
    asks = [echo(str(n)) for n in range(20)]
    asks[7] = ask("return redis.error_reply('ERR of its own')")
    asks[13] = ask("return redis.call('INCR', KEYS[1]) + nothing")
    answers = await asyncio.gather(*map(group.run, asks), return_exceptions=True)
    for n, answer in enumerate(answers):
        assert isinstance(answer, ResponseError) if n in (7, 13) else answer == str(n).encode()
    assert "of its own" in str(answers[7])


async def test_a_request_that_cannot_be_sent_affects_no_other(group: Connection) -> None:
    asks = [echo(str(n)) for n in range(20)]
    asks[7] = ask("return 1", "half a surrogate \ud800")
    for _ in range(2):
        answers = await asyncio.gather(*map(group.run, asks), return_exceptions=True)
        for n, answer in enumerate(answers):
            assert isinstance(answer, UnicodeEncodeError) if n == 7 else answer == str(n).encode()


async def test_a_waiter_that_has_left_takes_no_answer_of_others(group: Connection) -> None:
    await group.run(echo("connected"))
    for gone in range(10):
        asking = [asyncio.ensure_future(group.run(echo(str(n)))) for n in range(10)]
        await asyncio.sleep(0)
        asking[gone].cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for n, answer in enumerate(answers):
            assert isinstance(answer, asyncio.CancelledError) if n == gone else answer == str(n).encode()


async def test_a_forgotten_script_is_sent_again_and_nothing_is_done_twice(group: Connection, control: Client) -> None:
    await group.run(append("0"))
    for n in range(20):
        asking = [asyncio.ensure_future(group.run(append(str(n)))) for _ in range(20)]
        await asyncio.sleep(0)
        control.function_flush()
        asking += [asyncio.ensure_future(group.run(append(str(n)))) for _ in range(20)]
        asking.append(asyncio.ensure_future(group.run(echo("another"))))
        assert (await asyncio.gather(*asking))[-1] == b"another"
    assert control.llen("list") == 1 + 20 * 40


async def test_of_many_scripts_that_find_no_library_one_brings_it(group: Connection, control: Client) -> None:
    await group.run(append("0"))
    control.function_flush()
    control.config_resetstat()

    asking = [asyncio.ensure_future(group.run(append(str(n)))) for n in range(50)]
    await asyncio.gather(*asking[1:])

    assert control.info("commandstats")["cmdstat_function|load"]["calls"] == 1
    control.function_flush()
    asking = [asyncio.ensure_future(group.run(append(str(n)))) for n in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()  # the others are answered, whether or not it was loading the library
    assert len(await asyncio.gather(*asking[1:])) == 9


@pytest.mark.parametrize(
    ("refusing", "restored"),
    [
        ({"maxmemory": "1", "maxmemory-policy": "noeviction"}, {"maxmemory": "0"}),
        ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}),
    ],
    ids=["full", "without replicas"],
)
async def test_a_write_that_redis_refuses_for_now_waits_while_others_are_answered(
    group: Connection, control: Client, refusing: dict[str, str], restored: dict[str, str]
) -> None:
    await asyncio.gather(group.run(put("before", "x")), group.run(echo("before")))
    for name, value in refusing.items():
        control.config_set(name, value)
    try:
        writing = [asyncio.ensure_future(group.run(put(str(n), "x"))) for n in range(10)]
        for n in range(50):
            assert await group.run(echo(str(n))) == str(n).encode()
        assert not any(each.done() for each in writing)
    finally:
        for name, value in restored.items():
            control.config_set(name, value)
    assert await asyncio.gather(*writing) == [b"put"] * 10


async def test_a_write_waits_while_redis_is_a_replica(group: Connection, control: Client) -> None:
    await asyncio.gather(group.run(put("before", "x")), group.run(echo("before")))
    control.replicaof("127.0.0.1", 1)
    writing = asyncio.ensure_future(group.run(put("after", "x")))
    try:
        assert await group.run(echo("reading")) == b"reading"
        assert not writing.done()
    finally:
        control.replicaof("NO", "ONE")
    assert await writing == b"put"


async def test_all_wait_while_a_strangers_script_occupies_redis(
    group: Connection, control: Client, server: EmbeddedRedis
) -> None:
    await group.run(echo("connected"))
    control.config_set("lua-time-limit", "20")
    stranger = connect(server.url)
    endless = asyncio.get_running_loop().run_in_executor(None, stranger.eval, "while true do end", 0)

    def is_busy() -> bool:
        try:
            control.ping()
        except ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    await until(is_busy)
    asking = [asyncio.ensure_future(group.run(append(str(n)))) for n in range(10)]
    done, _ = await asyncio.wait(asking, timeout=0.1)
    assert not done
    control.script_kill()
    with pytest.raises(ResponseError):
        await endless
    stranger.close()
    assert sorted(await asyncio.gather(*asking)) == list(range(1, 11))


async def test_an_outage_is_waited_out_on_a_new_connection(tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path / "redis") as first:
        url = first.url
        group = Connection(url, here(), patience_seconds=30)
        assert first.pid is not None
        written = 0

        async def write(lane: int) -> None:
            nonlocal written
            for n in range(200):
                assert await group.run(put(f"{lane}:{n}", "x")) == b"put"
                written += 1

        lanes = [asyncio.ensure_future(write(lane)) for lane in range(20)]
        await until(lambda: written > 400)
        os.kill(first.pid, signal.SIGKILL)
        errors: list[Exception] = []
        group.post(("LPUSH", "list", "x"), errors.append)
        await until(lambda: errors)
        with await asyncio.to_thread(EmbeddedRedis.in_folder(tmp_path / "redis").start) as again:
            assert again.url == url
            await asyncio.gather(*lanes)
            client = connect(url)
            assert client.dbsize() == 20 * 200
            client.close()
            await group.close()


async def test_patience_ends_and_says_what_was_wanted() -> None:
    with EmbeddedRedis.temporary(append_only=False) as gone:
        url = gone.url
        group = Connection(url, here(), patience_seconds=0.2)
        await group.run(echo("connected"))
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.2 s while umbel was trying to fly"):
        await group.run(ask("return 1", what="fly"))
    await group.close()


async def test_a_batch_that_is_not_answered_fails_once_and_leaves_nothing_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = Connection(f"redis://127.0.0.1:{free_port()}", here(), patience_seconds=0.05)
    with pytest.raises(StoreUnavailable):
        await group.batch("look", [("PING",), ("TIME",), echo("hello")])
    await group.close()
    gc.collect()  # asyncio reports unretrieved exceptions when they are collected
    assert caplog.records == []


async def test_refused_credentials_are_no_outage(server: EmbeddedRedis) -> None:
    group = Connection(server.url.replace("redis://:", "redis://:wrong"), here(), patience_seconds=20)
    with pytest.raises(ConfigurationError, match="refuses the credentials"):
        await group.run(echo("hello"))
    await group.close()
