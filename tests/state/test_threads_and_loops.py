"""`ctx.store` in plain steps, and in several threads and event loops of one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import TypeVar

import pytest
from pydantic import BaseModel, field_validator

from support.store.blocking import BlockingStore as Store
from support.store.state import Derived, Run, connected_store
from umbel.orchestration.store.verbs import Store as AsyncStore
from umbel.tasks.state.access import StateAccess
from umbel.tasks.state.store import DictState, SyncStateStore
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.redis_server import EmbeddedRedis

T = TypeVar("T")


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary(append_only=False, binary=find_server(search_path="")) as server:
        yield server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = connected_store(redis_url)
    yield store
    store.client.close()


@pytest.fixture(params=["beside the loop", "on the loop"])
def run(store: Store, request: pytest.FixtureRequest) -> Run:
    """Async steps use Redis on their own loop, callers on another one."""
    run = Run.start(store)
    run.as_in_step = request.param == "on the loop"
    return run


async def test_the_event_loop_continues_while_redis_is_slow(run: Run) -> None:
    run.store.client.execute_command("CLIENT", "PAUSE", 300)
    task = asyncio.create_task(run.state().set("n", 1))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 100
    await task


def test_plain_steps_have_the_same_methods_blocking(run: Run) -> None:
    state = run.plain_state(work=run.claim("a"))
    state.set("a.b", 1)
    with state.edit_state() as edited:
        edited["a"]["b"] += 1
        assert state.get("a.b") == 1
        with pytest.raises(RuntimeError, match="writer called inside edit_state"):
            state.set("n", 1)

    def fail() -> None:
        with state.edit_state() as edited:
            edited.n = 1
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()

    assert state.get("") == state.get_state() == DictState(a={"b": 2})
    assert state.get("zz", 1) == 1
    with pytest.raises(ValueError, match="Path 'zz' not found in state"):
        state.get("zz")
    state.set_state(DictState(x=1))
    state.clear()
    assert state.get_state() == DictState()


async def test_a_plain_store_refuses_to_block_the_loop_it_needs(run: Run) -> None:
    store = AsyncStore(run.on_this_loop().connection, run.store.settings)
    state: SyncStateStore[DictState] = SyncStateStore(StateAccess(store, run.run_id, run.run_id, DictState, None))

    for call in (lambda: state.get("n"), lambda: state.set("n", 1), state.clear, state.to_dict):
        with pytest.raises(RuntimeError, match="blocking call was made on the event loop it needs"):
            call()


class Watched(BaseModel):
    n: int = 0

    @field_validator("n")
    @classmethod
    def _seen(cls, n: int) -> int:
        VALIDATED_IN.append(threading.get_ident())
        if n < 0:
            raise SystemExit(n)
        return n


VALIDATED_IN: list[int] = []


def test_a_plain_steps_validators_run_in_its_own_thread(run: Run) -> None:
    """There they cannot block what shares the loop: heartbeats, other steps."""
    VALIDATED_IN.clear()
    state = run.plain_state(Watched)
    state.set("n", 1)
    state.set_state(Watched(n=2))
    with state.edit_state() as edited:
        edited.n += 1
    assert state.get("n") == 3

    assert set(VALIDATED_IN) == {threading.get_ident()}


def test_a_validator_that_exits_ends_its_step_and_nothing_else(run: Run) -> None:
    state = run.plain_state(Watched)
    with pytest.raises(SystemExit):
        state.set("n", -1)

    state.set("n", 1)
    assert state.get("n") == 1


def test_threads_and_loops_of_one_process_alternate(run: Run) -> None:
    def block() -> None:
        state = run.plain_state(Derived)
        for _ in range(25):
            with state.edit_state() as edited:
                edited.count += 1

    async def edit() -> None:
        async with run.state(Derived).edit_state() as edited:
            edited.count += 1

    async def many() -> None:
        await asyncio.gather(*(edit() for _ in range(25)))

    threads = [threading.Thread(target=work) for work in (block, block, lambda: asyncio.run(many()))]
    threads.append(threading.Thread(target=lambda: asyncio.run(many())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert run.plain_state(Derived).get("count") == 100
