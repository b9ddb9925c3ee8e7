"""`edit_state` and `set` against each other: within a task and across tasks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.state import Derived, Run, connected_store
from support.store.state_writer import beside
from umbel.orchestration.state.redis_hash import Change, Occupied, StateHash
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.verbs import Store as AsyncStore
from umbel.tasks.state.access import OPTIMISTIC_TRIES, StateAccess
from umbel.tasks.state.store import DictState, StateBusy, StateStore
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


async def test_an_edit_is_isolated_until_its_end(run: Run) -> None:
    state = run.state(work=run.claim("a"))
    await state.set("n", 1)
    async with state.edit_state() as edited:
        edited.n = 2
        edited.m = [1]
        assert await state.get("n") == 1
        assert (await run.state().get_state()).to_dict() == {"n": 1}

    assert (await state.get_state()).to_dict() == {"n": 2, "m": [1]}
    assert [entry["how"] for entry in run.journal()] == ["set", "edit_state"]


async def test_an_edit_that_raises_changes_nothing(run: Run) -> None:
    await run.state().set("n", [1])

    async def edit() -> None:
        async with run.state().edit_state() as state:
            state.n.append(2)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await edit()

    assert await run.state().get("n") == [1]
    await run.state().set("n", 2)


def test_an_edit_whose_loop_is_closed_in_it_keeps_nobody_waiting(store: Store) -> None:
    """Also as long as its frames are alive: a closed loop's tasks may refer to them in a cycle."""
    run = Run.start(store)
    edit = run.state(lock_seconds=0.5).edit_state()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(edit.__aenter__())
    loop.close()

    asyncio.run(run.state(lock_seconds=0.5).set("n", 1))

    assert run.raw()["n"] == b"1"
    del edit  # only now may it be collected


async def test_an_edit_may_delete_keys(run: Run) -> None:
    await run.state().set_state(DictState(a=1, b=2))
    async with run.state().edit_state() as state:
        del state["a"]

    assert run.raw() == {"b": b"2"}


async def test_a_writer_inside_an_edit_is_refused(run: Run, store: Store) -> None:
    state = run.state()

    async def nested() -> None:
        async with state.edit_state():
            pass

    async with state.edit_state() as edited:
        edited.n = 1
        for write in (
            lambda: state.set("n", 2),
            lambda: run.state().set("a.b", 2),
            lambda: state.set_state(DictState()),
            state.clear,
            nested,
            lambda: asyncio.create_task(state.set("n", 2)),  # would wait for its own parent
        ):
            with pytest.raises(RuntimeError) as caught:
                await write()
            assert str(caught.value) == "writer called inside edit_state: mutate the yielded state instead"
        other = StateStore(StateAccess(beside(store), "other", "other", DictState, None))
        await other.set("n", 1)

    assert await state.get("n") == 1
    await state.set("n", 2)


async def test_a_task_that_outlives_the_edit_it_began_in_may_write(run: Run) -> None:
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        await run.state().set("later", 1)

    async with run.state().edit_state() as state:
        task = asyncio.create_task(later())
        state.n = 1
    go.set()
    await task

    assert run.raw() == {"n": b"1", "later": b"1"}


async def test_a_set_waits_for_the_edit_in_progress(run: Run) -> None:
    order: list[str] = []

    async def set_it() -> None:
        await run.state().set("n", 5)
        order.append("set")

    editing = asyncio.Event()

    async def edit() -> None:
        async with run.state().edit_state() as state:
            editing.set()
            await asyncio.sleep(0)
            for _ in range(20):
                await run.state().get("n", None)
            state.n = 1
            order.append("edited")

    edit_task = asyncio.create_task(edit())
    await editing.wait()
    await asyncio.gather(edit_task, set_it())

    assert order == ["edited", "set"]
    assert await run.state().get("n") == 5


async def test_a_thousand_waiters_need_no_thousand_connections(run: Run) -> None:
    client = run.store.client
    before = client.info()["total_connections_received"]

    async def increment() -> None:
        async with run.state(Derived).edit_state() as state:
            state.count += 1

    await asyncio.gather(*(increment() for _ in range(1000)))

    assert await run.state(Derived).get("count") == 1000
    assert client.info()["total_connections_received"] - before <= 16


async def test_sets_below_one_key_do_not_lose_each_other(run: Run) -> None:
    await asyncio.gather(*(run.state().set(f"a.k{n}", n) for n in range(100)))

    assert await run.state().get("a") == {f"k{n}": n for n in range(100)}


class RivalStore(AsyncStore):
    """A store with a faster writer, which writes first, before each write, if the lock lets it."""

    def __init__(self, store: AsyncStore, rival: StateHash) -> None:
        super().__init__(store.connection, store.settings)
        self.rival = rival
        self.rival_writes: list[object] = []

    async def send_script(self, call: ScriptCall[T]) -> T:
        if call.script.name == "state_write":
            value = b'{"rival":%d}' % len(self.rival_writes)
            self.rival_writes.append(await self.rival.write(Change("set", {"a": value})))
        return await super().send_script(call)


async def test_a_set_that_keeps_losing_the_race_takes_the_lock_and_gets_through(run: Run) -> None:
    near = run.on_this_loop() if run.as_in_step else beside(run.store)
    store = RivalStore(near, StateHash(near, run.run_id, run.run_id))
    await StateStore(StateAccess(store, run.run_id, run.run_id, DictState, None)).set("a.mine", 1)

    assert store.rival_writes[:-1] == ["written"] * OPTIMISTIC_TRIES
    assert isinstance(store.rival_writes[-1], Occupied)
    assert await run.state().get("a") == {"rival": OPTIMISTIC_TRIES - 1, "mine": 1}
    assert run.store.client.exists(run.lock_key()) == 0


async def test_an_editor_that_takes_too_long_is_named_in_the_error_of_the_waiters(run: Run) -> None:
    waiting = run.state(work=run.claim("a"), patience_seconds=0.2)
    async with run.state().edit_state():
        with pytest.raises(StateBusy) as caught:
            await asyncio.create_task(outside_of_the_block(lambda: waiting.set("cart.n", 1)))

    for part in ("set('cart.n')", run.run_id, "'a'", "0.2 s"):
        assert part in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    await waiting.set("cart.n", 1)


async def outside_of_the_block(call: Callable[[], Any]) -> Any:
    """Call it as a task that began before the edit would: without the edit in its context."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def body() -> None:
        try:
            done.set_result(await call())
        except Exception as error:
            done.set_exception(error)

    task = asyncio.get_running_loop().create_task(body(), context=contextvars.Context())
    await task
    return await done


async def test_a_waiter_that_is_cancelled_blocks_no_other(run: Run) -> None:
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def hold() -> None:
        async with run.state().edit_state() as state:
            entered.set()
            await leave.wait()
            state.held = True

    async def increment() -> None:
        async with run.state().edit_state() as state:
            state.n = state.to_dict().get("n", 0) + 1

    holder = asyncio.create_task(hold())
    await entered.wait()
    waiters = [asyncio.create_task(increment()) for _ in range(6)]
    await asyncio.sleep(0.01)
    for task in waiters[::2]:
        task.cancel()
    leave.set()
    results = await asyncio.gather(holder, *waiters, return_exceptions=True)

    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False] + [
        True,
        False,
    ] * 2
    assert await run.state().get("n") == 3


async def test_an_edit_that_is_cancelled_in_its_block_changes_nothing_and_lets_go(run: Run) -> None:
    entered = asyncio.Event()

    async def hold() -> None:
        async with run.state().edit_state() as state:
            state.n = 1
            entered.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await entered.wait()
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder

    assert run.store.client.exists(run.lock_key()) == 0
    assert run.raw() == {}


async def test_a_write_that_is_cancelled_under_way_is_waited_for_and_counted(run: Run) -> None:
    state = run.state(work=run.claim("a"))
    run.store.client.execute_command("CLIENT", "PAUSE", 300)
    task = asyncio.create_task(state.set("n", 1))
    await asyncio.sleep(0)  # its request is sent
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert state.hash.writes == 1
    assert run.raw() == {"n": b"1"}


async def test_cancelling_at_any_moment_leaves_no_lock_and_no_ticket(run: Run) -> None:
    async def edit() -> None:
        async with run.state().edit_state() as state:
            state.n = state.to_dict().get("n", 0) + 1

    for steps in range(40):
        task = asyncio.create_task(edit())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert run.store.client.exists(run.lock_key()) == 0
    async with asyncio.timeout(20):
        await edit()


def test_a_loop_that_is_thrown_away_in_an_edit_does_not_block_the_others_for_long(run: Run) -> None:
    run.as_in_step = False  # a worker does not throw its loop away

    async def hang() -> None:
        async with run.state(lock_seconds=0.3).edit_state() as edited:
            edited.n = 1
            entered.set()
            await asyncio.Event().wait()

    loop, entered = asyncio.new_event_loop(), asyncio.Event()
    coroutine = hang()
    task = loop.create_task(coroutine)
    loop.run_until_complete(entered.wait())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # on purpose
    loop.close()
    del task, coroutine
    gc.collect()

    run.plain_state().set("n", 2)
    assert run.raw() == {"n": b"2"}
