"""The reply is lost after Redis has applied the command: the repeated command is applied once, for each verb."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from support.faults.proxy import Proxy, script
from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.driving import DrivenRun, dump
from support.store.state_writer import BlockingHash, beside
from support.store.verb_cases import CASES, PLAN
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.state.redis_hash import Change
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.replies import Refusal
from umbel.workers.embedded.redis_server import EmbeddedRedis

#: Verbs that these cases call several times in a row.
IN_PARTS = {"restore", "stage", "unstage"}

#: Each call changes these: it counts, extends a lease, and schedules the next check of a child run.
UNMATCHED = ("counters", "leases", "outbox")


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with EmbeddedRedis.temporary(append_only=False) as server, Proxy(server.url) as made:
        yield made


@pytest.fixture(scope="module")
def past(proxy: Proxy) -> Iterator[Client]:
    """A connection that bypasses the proxy."""
    client = connect(proxy.behind)
    yield client
    client.close()


@pytest.fixture
def store(proxy: Proxy) -> Iterator[Store]:
    """A store behind the proxy, with periods so long that nothing becomes due by itself."""
    settings = Settings(
        redis_url=proxy.url,
        key_prefix=f"t{secrets.token_hex(6)}",
        shards=2,
        lease_seconds=600,
        heartbeat_seconds=200,
        redispatch_seconds=600,
        redispatch_max_seconds=20_000,
    )
    client = connect(proxy.url)
    yield blocking_store(settings, client)
    proxy.heal()
    client.close()


def losing_one(proxy: Proxy, past: Client, store: Store, verb: str) -> list[Any]:
    """Lose the first reply to a verb; returns a list that gets the state right after that call."""
    left: list[Any] = []

    def look() -> None:
        left.append(dump(past, store.settings.key_prefix, without=UNMATCHED))

    proxy.lose_replies(script(verb), when_lost=look)
    return left


@pytest.mark.parametrize("name", CASES)
def test_a_verb_whose_answer_is_lost_is_applied_once(proxy: Proxy, past: Client, store: Store, name: str) -> None:
    case = CASES[name](store)
    left = losing_one(proxy, past, store, case.verb)

    answer = case.ask()

    assert not isinstance(answer, Refusal), answer
    (state,) = left
    if name in IN_PARTS:  # the other calls follow the one whose reply was lost
        state = dump(past, store.settings.key_prefix, without=UNMATCHED)
        assert case.ask() == answer
    assert dump(past, store.settings.key_prefix, without=UNMATCHED) == state


def test_a_state_write_whose_answer_is_lost_is_written_and_journaled_once(
    proxy: Proxy, past: Client, store: Store
) -> None:
    run = DrivenRun(store, PLAN).start()
    work = run.claim("begin")
    state = BlockingHash(beside(store), run.run_id, work.state_id, work)
    for verb, ask in (
        ("state_lock", lambda: state.lock("me")),
        ("state_renew", lambda: state.renew("me")),
        ("state_write", lambda: state.write(Change("edit", {"n": b"1"}), lock="me")),
        ("state_unlock", lambda: state.unlock("me")),
        ("state_at", lambda: state.read_version(1)),
        ("state_back", lambda: state.put_back(0)),
        ("state_back", lambda: state.put_back(1)),
    ):
        left = losing_one(proxy, past, store, verb)
        assert ask() in ({}, True, "written", None, {"n": b"1"}, 2, 3)
        assert len(left) == 1, f"the answer of {verb} was not lost"
    assert state.read_all() == {"n": b"1"}
    assert [kind for _, kind, _ in store.journal(run.run_id)].count("state") == 3


def test_redispatching_after_a_lost_answer_sends_the_newest_dispatch(proxy: Proxy, past: Client, store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    dispatch = run.dispatches[0]
    left = losing_one(proxy, past, store, "redispatch")

    (again,) = run.leases.redispatch(run.run_id, [(dispatch.work_id, "umbel/0")]).dispatches

    assert len(left) == 1
    assert again.dispatch_no == 3
    assert not isinstance(run.ask(again), Refusal)
    assert run.ask(dispatch) is Refusal.BUSY


def test_a_connection_that_has_gone_silent_costs_one_time_out_and_no_failure(proxy: Proxy) -> None:
    portal = Portal("test")
    connection = Connection(proxy.url, portal, patience_seconds=0.1, silence_seconds=0.3)
    assert portal.call(connection.command("look", "PING")) == b"PONG"

    assert proxy.blackhole() >= 1
    # The patience expires before the silence is noticed, although Redis is healthy.
    assert portal.call(connection.command("look", "PING")) == b"PONG"
    portal.close()
