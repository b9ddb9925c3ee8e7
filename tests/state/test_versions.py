"""Versions of a state: each write creates one, and the state can be read as of each version and put back to it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.state import Run, connected_store
from support.store.state_writer import beside
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.state.redis_hash import Change, Occupied, StateHash
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.redis_server import EmbeddedRedis

CANCELLED = Envelope("workflows.events.WorkflowCancelledEvent", (), b"{}")


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary(append_only=False, binary=find_server(search_path="")) as server:
        yield server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = connected_store(redis_url)
    yield store
    store.client.close()


def state_of(store: Store) -> tuple[Run, StateHash]:
    run = Run.start(store)
    return run, StateHash(beside(store), run.run_id, run.run_id)


@pytest.mark.parametrize("seed", range(5))
async def test_a_state_can_be_read_as_of_each_of_its_versions_and_put_back_to_it(store: Store, seed: int) -> None:
    chosen, (run, state) = random.Random(seed), state_of(store)
    versions = [run.raw()]
    for _ in range(40):
        names = chosen.sample("abcde", chosen.randint(0, 3))
        long = bytes(chosen.choices(b"xyz", k=600))
        values = [b"1", b'"short"', long, run.raw().get("a", b"2") + b"tail"]
        change = Change(
            "set",
            {name: chosen.choice(values) for name in names},
            tuple(chosen.sample("fabc", chosen.randint(0, 2))),
            replace=chosen.random() < 0.2,
        )
        assert await state.write(change) == "written"
        versions.append(run.raw())

    assert await state.version() == 40
    for number, expected in enumerate(versions):
        assert await state.read_version(number) == expected
    for number in chosen.sample(range(41), 10):
        before = await state.version()
        assert await state.put_back(number) == before + 1
        assert run.raw() == versions[number]
        assert await state.read_version(before) == versions[before] if before <= 40 else True
    assert [entry["v"] for entry in run.journal()] == list(range(1, 51))


async def test_versions_that_never_were_or_are_not_kept_are_unknown(store: Store) -> None:
    _, state = state_of(store)
    for n in range(1003):
        await state.write(Change("set", {"n": b"%d" % n}))

    assert await state.read_version(1004) is None
    assert await state.read_version(10**20) is None
    assert await state.read_version(-1) is None
    assert await state.put_back(10**20) is None
    assert await state.read_version(2) is None
    assert await state.put_back(2) is None
    assert await state.read_version(3) == {"n": b"2"}
    assert await state.version() == 1003
    key = store.locate(state.run_id)[f"state:{state.state_id}:versions"]
    assert store.client.hlen(key) == 1002


async def test_what_an_older_release_wrote_over_is_not_put_together_wrongly(store: Store) -> None:
    run, state = state_of(store)
    long = b"x" * 500
    await state.write(Change("set", {"a": long}))
    await state.write(Change("set", {"a": long + b"y"}))
    store.client.hset(run.state_key(), "a", b"another")

    assert await state.read_version(1) is None
    assert await state.put_back(1) is None
    assert run.raw() == {"a": b"another"}


async def test_putting_back_waits_for_an_edit_in_progress(store: Store) -> None:
    _, state = state_of(store)
    await state.write(Change("set", {"a": b"1"}))
    await state.lock("mine")

    assert await state.put_back(0) == Occupied("mine")

    await state.unlock("mine")
    assert await state.put_back(0) == 2
    assert await state.read_all() == {}


async def test_without_values_in_the_journal_there_are_versions_but_no_way_back(store: Store) -> None:
    summary = blocking_store(store.settings.model_copy(update={"history": "summary"}), store.client)
    run = Run.start(summary)
    state = StateHash(beside(summary), run.run_id, run.run_id)
    await state.write(Change("set", {"a": b"1"}))

    assert await state.version() == 1
    assert await state.put_back(0) is None
    assert run.raw() == {"a": b"1"}


async def test_a_repeated_request_to_put_back_is_one_write(store: Store) -> None:
    run, state = state_of(store)
    await state.write(Change("set", {"a": b"1"}))
    name = f"state:{state.state_id}"
    names = {"state": name, "versions": f"{name}:versions", "lock": f"{name}:lock", "next": f"{name}:lock:next"}
    names["answer"] = f"{name}:answer:me"
    asked = {"me": "me", "id": new_id(), "version": 0}

    first = store.verb("state_back", run.run_id, names, **asked)
    again = store.verb("state_back", run.run_id, names, **asked)

    assert first == again == [b"written", b"2"]
    assert await state.version() == 2


async def test_versions_live_as_long_as_their_state(store: Store) -> None:
    run, state = state_of(store)
    await state.write(Change("set", {"a": b"1"}))
    key = store.locate(run.run_id)[f"state:{state.state_id}:versions"]
    assert store.client.pttl(key) == -1

    store.finish(run.run_id, "cancelled", CANCELLED)
    left = store.client.pttl(run.state_key())
    assert 0 < store.client.pttl(key) <= left
    await state.put_back(0)
    assert store.client.pttl(key) > 0

    store.purge(run.run_id)
    assert store.client.exists(key) == 0
