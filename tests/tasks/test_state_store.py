"""`ctx.store` as users see it: paths, typed states, edits; and across tasks, threads, loops and processes."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError
from umbel.orchestration.connection import connect
from umbel.orchestration.decide import Limits, decide_start
from umbel.orchestration.envelope import START, Envelope
from umbel.orchestration.errors import PayloadTooLarge, RunClosed, UnserializableValue, WorkflowRuntimeError
from umbel.orchestration.keys import new_id
from umbel.orchestration.plan import Plan, StepPlan
from umbel.orchestration.records import Applied
from umbel.orchestration.settings import Settings
from umbel.orchestration.state import StateHash
from umbel.orchestration.store import Store
from umbel.orchestration.upkeep import Held, Upkeep
from umbel.orchestration.work import Work
from umbel.tasks.dict_like_model import DictLikeModel
from umbel.tasks.state_store import DictState, StateBusy, StateEditLost, StateMismatch, StateStore, SyncStateStore
from umbel.workers.embedded import EmbeddedRedis
from umbel.workers.redis_binary import find_server

PLAN = Plan(
    workflow="W",
    start_event=START,
    steps=tuple(StepPlan(name=name, task=f"W.{name}", accepts=(START,)) for name in ("a", "b")),
)


class Customer(BaseModel):
    name: str
    born: date | None = None


class Base(BaseModel):
    count: int = 0
    tags: list[str] = Field(default_factory=list)


class Derived(Base):
    customer: Customer | None = None
    notes: dict[str, Any] = Field(default_factory=dict)


class Unrelated(BaseModel):
    other: int = 0


class Needy(BaseModel):
    must: int


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary(append_only=False, binary=find_server(search_path="")) as server:
        yield server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    """Every test has a key prefix of its own."""
    settings = Settings(redis_url=redis_url, key_prefix=f"t{secrets.token_hex(6)}", shards=2)
    client = connect(redis_url)
    yield Store(client, settings)
    client.close()


@dataclass
class Run:
    """A started run whose two work items may be claimed."""

    store: Store
    run_id: str
    bells: dict[str, Any]

    def claim(self, step: str, owner: str = "o") -> Work:
        bell = self.bells[step]
        work = self.store.claim(
            self.run_id, bell.work_id, bell.dispatch_no, claim_id=new_id(), owner=owner, takes_suspects=True
        )
        assert isinstance(work, Work)
        return work

    def lose(self, work: Work) -> None:
        """Declare the process that holds `work` lost, and have it dispatched again."""
        held = Held(self.run_id, work.work_id, work.claim_id)
        for _, applied in Upkeep(self.store).hand_back(work.owner, [held], charge=True):
            self.bells |= {bell.step: bell for bell in applied.doorbells}

    def state(self, cls: type[Any] = DictState, work: Work | None = None, **options: Any) -> StateStore[Any]:
        return StateStore(self.store, self.run_id, self.run_id, cls, work, **options)

    def raw(self) -> dict[str, bytes]:
        return StateHash(self.store, self.run_id, self.run_id).read_all()

    def lock_key(self) -> str:
        return self.store.locate(self.run_id)[f"state:{self.run_id}:lock"]

    def journal(self) -> list[Any]:
        return [data for _, kind, data in self.store.journal(self.run_id) if kind == "state"]


@pytest.fixture
def run(store: Store) -> Run:
    run_id = new_id()
    commands = decide_start(PLAN, run_id, Envelope(START, (), b"{}"), Limits())
    started = store.start(run_id, PLAN, commands, nonce="n", timeout_seconds=None)
    assert isinstance(started, Applied)
    return Run(store, run_id, {bell.step: bell for bell in started.doorbells})


async def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.005)


# -- paths -------------------------------------------------------------------------------------------------------------

CONTENT = {
    "n": 0,
    "none": None,
    "cart": {"items": [{"price": 5}, {"price": 7}], "k": {"": 1}},
    "customer": Customer(name="Ada", born=date(1815, 12, 10)),
    "items": "a key called like a method",
    "copy": {"get": 1},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("n", 0),
        ("none", None),
        ("cart.items.1.price", 7),
        ("cart.items.-1.price", 7),
        ("cart.k.", 1),
        ("customer.name", "Ada"),
        ("customer.born", date(1815, 12, 10)),
        ("customer", Customer(name="Ada", born=date(1815, 12, 10))),
        ("items", "a key called like a method"),
        ("copy.get", 1),
    ],
)
async def test_a_path_leads_to_a_value(run: Run, path: str, value: Any) -> None:
    await run.state().set_state(DictState(**CONTENT))

    assert await run.state().get(path) == value
    assert await run.state().get(path, default="unused") == value


@pytest.mark.parametrize(
    "path",
    [
        "zz",
        "zz.deep",
        "n.x",
        "none.x",
        "cart.items.2",
        "cart.items.first",
        "cart.pop",
        "customer.model_dump",
        "customer.__class__",
        "customer.age",
        ".n",
        "n.",
    ],
)
async def test_a_path_that_leads_nowhere_is_an_error_or_the_default(run: Run, path: str) -> None:
    await run.state().set_state(DictState(**CONTENT))

    with pytest.raises(ValueError, match="not found in state") as caught:
        await run.state().get(path)
    assert str(caught.value) == f"Path {path!r} not found in state"
    assert await run.state().get(path, default=None) is None
    assert await run.state().get(path, 5) == 5


async def test_the_empty_path_is_the_whole_state_and_cannot_be_set(run: Run) -> None:
    await run.state().set("n", 1)

    assert (await run.state().get("")).to_dict() == {"n": 1}
    for path in ("", ".a"):
        with pytest.raises(ValueError, match="names no key"):
            await run.state().set(path, 5)


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        ({}, "a", {"a": "v"}),
        ({}, "a.b.c", {"a": {"b": {"c": "v"}}}),
        ({"a": {"x": 1}}, "a.b", {"a": {"x": 1, "b": "v"}}),
        ({"a": [1, 2]}, "a.1", {"a": [1, "v"]}),
        ({"a": [{"x": 1}]}, "a.0.x", {"a": [{"x": "v"}]}),
        ({"a": Customer(name="x")}, "a.name", {"a": Customer(name="v")}),
        ({"a": 1, "b": 2}, "a", {"a": "v", "b": 2}),
        ({"get": 1}, "items", {"get": 1, "items": "v"}),
    ],
)
async def test_set_puts_a_value_at_a_path(run: Run, before: Any, path: str, after: Any) -> None:
    await run.state().set_state(DictState(**before))
    await run.state().set(path, "v")

    assert (await run.state().get_state()).to_dict() == after
    assert await run.state().get(path) == "v"


@pytest.mark.parametrize("path", ["n.x", "none.x", "list.5", "list.x", "customer.age", "customer._x", "customer.born"])
async def test_set_refuses_what_cannot_hold_the_value(run: Run, path: str) -> None:
    before = DictState(n=1, none=None, list=[1], customer=Customer(name="x"))
    await run.state().set_state(before)

    with pytest.raises(ValueError, match=r"cannot be set|no field|valid date"):
        await run.state().set(path, "no date")
    assert await run.state().get_state() == before


async def test_a_path_has_at_most_1000_segments(run: Run) -> None:
    with pytest.raises(ValueError, match="1001 segments"):
        await run.state().set(".".join("a" * 1001), 1)
    with pytest.raises(ValueError, match="1001 segments"):
        await run.state().get(".".join("a" * 1001), default=1)


async def test_what_is_set_is_not_shared_with_what_is_stored(run: Run) -> None:
    value = {"items": [1]}
    await run.state().set("cart", value)
    value["items"].append(2)
    (await run.state().get("cart"))["items"].append(3)
    (await run.state().get_state())["cart"]["items"].append(4)

    assert await run.state().get("cart.items") == [1]


# -- DictState ---------------------------------------------------------------------------------------------------------


def test_a_dict_state_has_any_keys_as_items_and_attributes() -> None:
    state = DictState(a=1)
    state.b = 2
    state["copy"] = 3
    state.schema = 4  # type: ignore[method-assign,assignment]  # a method of pydantic's models, and a likely key
    assert (state.a, state["b"], state["copy"], state["schema"]) == (1, 2, 3, 4)
    assert "copy" in state
    assert dict(state.items()) == {"a": 1, "b": 2, "copy": 3, "schema": 4}

    del state["a"]
    del state.b
    assert state.to_dict() == {"copy": 3, "schema": 4}
    with pytest.raises(KeyError):
        del state["a"]
    with pytest.raises(AttributeError):
        del state.b


async def test_a_subclass_of_dict_state_may_declare_fields(run: Run) -> None:
    class Mixed(DictState):
        count: int = 0

    state = run.state(Mixed)
    await state.set("count", "3")
    await state.set("free.x", 1)
    async with state.edit_state() as edited:
        edited.count += 1
        edited.other = True

    found = await state.get_state()
    assert (found.count, found.to_dict()) == (4, {"free": {"x": 1}, "other": True})
    assert await state.get("count") == 4
    await state.clear()
    assert (await state.get_state()).to_dict() == {}


# -- typed states ------------------------------------------------------------------------------------------------------


async def test_a_typed_state_begins_with_its_defaults_and_comes_back_typed(run: Run) -> None:
    state = run.state(Derived)
    assert await state.get_state() == Derived()
    assert await state.get("count") == 0

    await state.set("customer", Customer(name="Ada"))
    await state.set("customer.born", "1815-12-10")
    await state.set("notes.a.b", 1)
    await state.set("tags", ["x"])
    await state.set("tags.0", "y")

    customer = Customer(name="Ada", born=date(1815, 12, 10))
    assert await state.get_state() == Derived(customer=customer, notes={"a": {"b": 1}}, tags=["y"])
    assert await state.get("customer.born") == date(1815, 12, 10)


@pytest.mark.parametrize(
    ("path", "value"), [("count", "many"), ("unknown", 1), ("customer.name", 5), ("count.x", 1), ("model_dump", 1)]
)
async def test_a_typed_state_refuses_what_it_does_not_declare(run: Run, path: str, value: Any) -> None:
    state = run.state(Derived)
    await state.set("customer", Customer(name="Ada"))

    with pytest.raises(ValueError, match=r"no field|valid|cannot"):
        await state.set(path, value)
    assert await state.get_state() == Derived(customer=Customer(name="Ada"))


async def test_a_typed_edit_that_no_longer_fits_is_refused_at_the_writer(run: Run) -> None:
    state = run.state(Derived)
    with pytest.warns(UserWarning, match="serialized value may not be as expected"), pytest.raises(ValidationError):
        async with state.edit_state() as edited:
            edited.count = "many"

    assert await state.get_state() == Derived()
    await state.set("count", 1)


async def test_only_what_an_edit_changes_is_written(run: Run) -> None:
    state = run.state(Derived)
    await state.set("tags", ["x"])
    async with state.edit_state() as edited:
        edited.count = 5
    async with state.edit_state():
        pass

    assert [entry["set"] for entry in run.journal()] == [["tags"], ["count"]]
    assert run.raw() == {"tags": b'["x"]', "count": b"5"}


async def test_a_state_of_a_subclass_replaces_and_one_of_a_parent_is_merged(run: Run) -> None:
    class More(Derived):
        extra: int = 1

    state = run.state(Derived)
    await state.set_state(More(count=1, extra=7, notes={"n": 1}))
    found = await state.get_state()
    assert (type(found), found.extra) == (More, 7)

    await state.set_state(Base(count=2, tags=["t"]))
    assert await state.get_state() == More(count=2, extra=7, notes={"n": 1}, tags=["t"])

    await state.clear()
    assert await state.get_state() == More()
    await state.set_state(More(extra=9))
    await state.set_state(Derived(count=3))
    assert await state.get_state() == More(count=3, extra=9)  # by then a parent's state


async def test_a_state_of_an_unrelated_class_is_refused(run: Run) -> None:
    for cls, state in ((Derived, Unrelated()), (Derived, DictState()), (DictState, Derived()), (Derived, {"count": 1})):
        with pytest.raises(ValueError, match=f"State must be of type {cls.__name__}") as caught:
            await run.state(cls).set_state(state)  # type: ignore[arg-type]
        assert type(state).__name__ in str(caught.value)
    assert run.raw() == {}


async def test_clear_needs_defaults_for_all_fields(run: Run) -> None:
    state = run.state(Needy)
    for attempt in (state.clear, state.get_state, lambda: state.set("must", 1)):
        with pytest.raises(ValueError, match="State must have defaults for all fields"):
            await attempt()

    await state.set_state(Needy(must=1))
    await state.set("must", 2)
    assert await state.get("must") == 2


async def test_clear_leaves_nothing_of_a_dict_state(run: Run) -> None:
    await run.state().set_state(DictState(a=1, b=2))
    await run.state().clear()

    assert run.raw() == {}
    assert await run.state().get("a", default="gone") == "gone"


async def test_a_typed_step_reads_what_an_untyped_caller_has_seeded(run: Run) -> None:
    seeded = DictState(count=3, customer=Customer(name="Ada"), unknown=1, notes={"c": [Customer(name="Bo")]})
    await run.state().set_state(seeded)

    found = await run.state(Derived).get_state()
    assert found == Derived(count=3, customer=Customer(name="Ada"), notes={"c": [{"name": "Bo", "born": None}]})
    await run.state(Derived).set("count", 4)
    assert await run.state().get("unknown") == 1


async def test_a_state_that_no_longer_fits_its_class_says_so(run: Run) -> None:
    await run.state().set("count", "many")

    with pytest.raises(StateMismatch, match="count: .*valid integer") as caught:
        await run.state(Derived).get_state()
    assert run.run_id in str(caught.value)


async def test_excluded_fields_stay_behind(run: Run) -> None:
    class WithClient(BaseModel):
        n: int = 0
        client: Any = Field(default=None, exclude=True)

    async with run.state(WithClient).edit_state() as state:
        state.n, state.client = 1, threading.Lock()

    assert await run.state(WithClient).get_state() == WithClient(n=1)


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("client", threading.Lock(), "client"),
        ("cart.client", threading.Lock(), "cart.client"),
        ("cart", {"items": [1, object()]}, "cart.items[1]"),
        ("n", float("nan"), "n"),
        ("keys", {"a": {1: 2}}, "keys.a"),
    ],
)
async def test_a_value_that_cannot_be_stored_is_refused_by_name(run: Run, path: str, value: Any, place: str) -> None:
    await run.state().set("cart", {"n": 1})

    with pytest.raises(UnserializableValue) as caught:
        await run.state().set(path, value)
    assert repr(place) in str(caught.value)
    assert run.run_id in str(caught.value)
    if "Lock" in repr(type(value)) or isinstance(value, dict) and "items" in value:
        assert "Resource" in str(caught.value)

    with pytest.raises(UnserializableValue):
        async with run.state().edit_state() as state:
            state["cart"]["n"] = 2
            state["other"] = value
    assert run.raw() == {"cart": b'{"n":1}'}
    await run.state().set("cart", 2)  # the lock was let go


async def test_a_model_whose_class_is_not_loaded_is_shown_but_not_damaged(run: Run) -> None:
    raw = b'{"__is_pydantic":true,"value":{"name":"Ada"},"qualified_name":"elsewhere.Customer"}'
    access = StateHash(run.store, run.run_id, run.run_id)
    lost_class = {"customer": raw, "list": b"[" + raw + b"]"}
    with run.store.client.pipeline() as pipe:
        pipe.hset(access.key, mapping=lost_class).execute()  # type: ignore[arg-type]

    assert await run.state().get("customer.name") == "Ada"
    async with run.state().edit_state() as state:
        state.n = 1
    assert run.raw() == lost_class | {"n": b"1"}

    for path in ("customer.name", "list.0.name"):
        with pytest.raises(WorkflowRuntimeError, match=r"elsewhere\.Customer"):
            await run.state().set(path, "Bo")
    await run.state().set("customer", "Bo")
    assert run.raw()["customer"] == b'"Bo"'


async def test_a_value_above_the_limit_is_refused_and_a_large_one_logged(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    settings = run.store.settings.model_copy(update={"payload_warn_bytes": 100, "payload_max_bytes": 1_000})
    state = StateStore(Store(run.store.client, settings), run.run_id, run.run_id, DictState, None)

    await state.set("large", "x" * 200)
    assert "'large'" in caplog.text
    with pytest.raises(PayloadTooLarge, match=r"'huge' has 2,002 bytes, at most 1,000"):
        await state.set("huge", "x" * 2_000)
    assert set(run.raw()) == {"large"}


async def test_a_dict_like_model_is_a_state_too(run: Run) -> None:
    class Loose(DictLikeModel):
        n: int = 0

    await run.state(Loose).set("n", 1)
    await run.state(Loose).set("free", {"x": 1})

    found = await run.state(Loose).get_state()
    assert (found.n, found["free"]) == (1, {"x": 1})
    assert await run.state(Loose).get("free.x") == 1


# -- edits -------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(KeyError, match="mine"):
        async with run.state().edit_state() as state:
            state.n.append(2)
            raise KeyError("mine")

    assert await run.state().get("n") == [1]
    await run.state().set("n", 2)


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
                await write()  # type: ignore[no-untyped-call]
            assert str(caught.value) == "writer called inside edit_state: mutate the yielded state instead"
        other = StateStore(store, "other", "other", DictState, None)
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


async def test_one_editor_that_stays_too_long_is_named_to_those_who_wait(run: Run) -> None:
    waiting = run.state(work=run.claim("a"), patience_seconds=0.2)
    async with run.state().edit_state():
        with pytest.raises(StateBusy) as caught:
            await asyncio.create_task(outside_of_the_block(lambda: waiting.set("cart.n", 1)))

    for part in ("set('cart.n')", run.run_id, "'a'", "0.2 s"):
        assert part in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    await waiting.set("cart.n", 1)


async def outside_of_the_block(call: Callable[[], Any]) -> Any:
    """Call it as a task would that began before the edit: without the edit in its context."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def body() -> None:
        try:
            done.set_result(await call())
        except Exception as error:
            done.set_exception(error)

    import contextvars

    task = asyncio.get_running_loop().create_task(body(), context=contextvars.Context())
    await task
    return await done


async def test_a_waiter_that_is_cancelled_holds_up_nobody(run: Run) -> None:
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


async def test_cancelling_at_any_moment_leaves_no_lock_and_no_turn(run: Run) -> None:
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
    async def hang(state: StateStore[Any]) -> None:
        async with state.edit_state() as edited:
            edited.n = 1
            await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    coroutine = hang(run.state(lock_seconds=0.3))
    task = loop.create_task(coroutine)
    while run.store.client.exists(run.lock_key()) == 0:
        loop.run_until_complete(asyncio.sleep(0.005))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # on purpose
    coroutine.throw  # noqa: B018
    loop.close()
    del task, coroutine

    asyncio.run(run.state().set("n", 2))
    assert run.raw() == {"n": b"2"}


# -- threads and loops -------------------------------------------------------------------------------------------------


async def test_the_event_loop_goes_on_while_redis_is_slow(run: Run) -> None:
    run.store.client.execute_command("CLIENT", "PAUSE", 300)
    task = asyncio.create_task(run.state().set("n", 1))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 100
    await task


def test_plain_steps_have_the_same_methods_blocking(run: Run) -> None:
    state: SyncStateStore[DictState] = SyncStateStore(run.store, run.run_id, run.run_id, DictState, run.claim("a"))
    state.set("a.b", 1)
    with state.edit_state() as edited:
        edited["a"]["b"] += 1
        assert state.get("a.b") == 1
        with pytest.raises(RuntimeError, match="writer called inside edit_state"):
            state.set("n", 1)
    with pytest.raises(KeyError), state.edit_state() as edited:
        edited.n = 1
        raise KeyError

    assert state.get("") == state.get_state() == DictState(a={"b": 2})
    assert state.get("zz", 1) == 1
    with pytest.raises(ValueError, match="Path 'zz' not found in state"):
        state.get("zz")
    state.set_state(DictState(x=1))
    state.clear()
    assert state.get_state() == DictState()


def test_threads_and_loops_of_one_process_take_turns(run: Run) -> None:
    def block() -> None:
        state: SyncStateStore[Derived] = SyncStateStore(run.store, run.run_id, run.run_id, Derived, None)
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

    assert asyncio.run(run.state(Derived).get("count")) == 100


# -- who may write -----------------------------------------------------------------------------------------------------


async def test_a_lost_step_neither_writes_nor_ends_its_edit(run: Run) -> None:
    zombie = run.claim("a")
    state = run.state(work=zombie)
    await state.set("n", 1)

    with pytest.raises(RunClosed) as caught:
        async with state.edit_state() as edited:
            edited.n = 9
            run.lose(zombie)
    assert run.run_id in str(caught.value)
    for write in (lambda: state.set("n", 9), lambda: state.set("n.x", 9), state.clear, state.edit_state().__aenter__):
        with pytest.raises((RunClosed, ValueError)):
            await write()  # type: ignore[no-untyped-call]
    assert run.raw() == {"n": b"1"}

    successor = run.state(work=run.claim("a", owner="other"))
    await successor.set("n", 2)
    assert await state.get("n") == 2


async def test_an_edit_whose_lock_has_run_out_is_not_saved(run: Run) -> None:
    state = run.state()
    with pytest.raises(StateEditLost, match="was not saved") as caught:
        async with state.edit_state() as edited:
            edited.n = 1
            run.store.client.delete(run.lock_key())

    assert run.run_id in str(caught.value)
    assert run.raw() == {}
    await state.set("n", 1)


async def test_a_caller_seeds_a_state_before_the_run_and_reads_it_after(store: Store) -> None:
    run = Run(store, new_id(), {})
    await run.state(Derived).set("count", 1)
    commands = decide_start(PLAN, run.run_id, Envelope(START, (), b"{}"), Limits())
    started = store.start(run.run_id, PLAN, commands, nonce="n", timeout_seconds=None)
    assert isinstance(started, Applied)
    run.bells = {bell.step: bell for bell in started.doorbells}

    async with run.state(Derived, run.claim("a")).edit_state() as state:
        state.count += 1
    store.finish(run.run_id, "completed", Envelope("umbel.StopEvent", (), b"{}"))

    assert await run.state(Derived).get("count") == 2
    assert 0 < store.client.pttl(store.locate(run.run_id)[f"state:{run.run_id}"])


# -- processes ---------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys, time
from umbel.orchestration.connection import connect
from umbel.orchestration.keys import new_id
from umbel.orchestration.settings import Settings
from umbel.orchestration.store import Store
from umbel.tasks.state_store import DictState, StateStore

url, prefix, run_id, work_id, dispatch_no, lock_seconds = sys.argv[1:7]
store = Store(connect(url), Settings(redis_url=url, key_prefix=prefix, shards=2))
work = store.claim(run_id, work_id, int(dispatch_no), claim_id=new_id(), owner=new_id(), takes_suspects=True)
state = StateStore(store, run_id, run_id, DictState, work, lock_seconds=float(lock_seconds))
print("ready", flush=True)
sys.stdin.readline()
"""

INCREMENT = """
async def main():
    async def once():
        async with state.edit_state() as s:
            s.n = s.to_dict().get("n", 0) + 1
        await state.set(f"done.{work_id}", "yes")
    for _ in range(100):
        await asyncio.gather(*(once() for _ in range(5)))
asyncio.run(main())
"""

HANG = """
async def main():
    async with state.edit_state() as s:
        s.n = 99
        print("inside", flush=True)
        time.sleep(600)  # blocks the event loop as well
asyncio.run(main())
"""


@asynccontextmanager
async def child(run: Run, step: str, code: str, lock_seconds: float = 5.0) -> AsyncIterator[subprocess.Popen[str]]:
    bell, settings = run.bells[step], run.store.settings
    assert settings.redis_url is not None
    arguments = [settings.redis_url, settings.key_prefix, run.run_id, bell.work_id, str(bell.dispatch_no)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD + code, *arguments, str(lock_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


async def test_two_processes_lose_no_increment(run: Run) -> None:
    async with child(run, "a", INCREMENT) as first, child(run, "b", INCREMENT) as second:
        for process in (first, second):
            let_go(process)
        for process in (first, second):
            assert await asyncio.to_thread(process.wait, 50) == 0

    found = (await run.state().get_state()).to_dict()
    assert found["n"] == 1000
    assert found["done"] == {bell.work_id: "yes" for bell in run.bells.values()}


async def test_a_killed_editor_changes_nothing_and_blocks_for_seconds_at_most(run: Run) -> None:
    await run.state().set("n", 1)
    client, lock = run.store.client, run.lock_key()
    async with child(run, "a", HANG, lock_seconds=1.5) as editor:
        let_go(editor)
        assert editor.stdout is not None
        assert await asyncio.to_thread(editor.stdout.readline) == "inside\n"

        lives = [client.pttl(lock)]
        renewals = 0

        def renewed_twice() -> bool:
            nonlocal renewals
            lives.append(client.pttl(lock))
            renewals += lives[-1] > lives[-2]
            return renewals >= 2

        await eventually(renewed_twice, "the lock of a living editor is renewed")

        os.kill(editor.pid, signal.SIGKILL)
        editor.wait()
        assert client.exists(lock) == 1

    await run.state().set("m", 2)
    assert run.raw() == {"n": b"1", "m": b"2"}
