"""`ctx.store` from a user's point of view: paths, values, and states with any keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.state import Customer, Derived, Memory, Run, connected_store
from support.store.state_writer import beside
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.errors import PayloadTooLarge, UnserializableValue, WorkflowRuntimeError
from umbel.tasks.state.access import StateAccess
from umbel.tasks.state.store import DictState, StateStore
from umbel.tasks.values.dict_like_model import DictLikeModel
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.redis_server import EmbeddedRedis


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary(append_only=False, binary=find_server(search_path="")) as server:
        yield server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = connected_store(redis_url)
    yield store
    store.client.close()


@pytest.fixture
def run(store: Store) -> Run:
    return Run.start(store)


@pytest.fixture(params=["redis", "memory"])
def place(request: pytest.FixtureRequest) -> Run | Memory:
    """The in-memory state or one in Redis."""
    place: Run | Memory = Memory() if request.param == "memory" else request.getfixturevalue("run")
    return place


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
async def test_a_path_leads_to_a_value(place: Run | Memory, path: str, value: Any) -> None:
    await place.state().set_state(DictState(**CONTENT))

    assert await place.state().get(path) == value
    assert await place.state().get(path, default="unused") == value


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
async def test_a_path_that_leads_nowhere_is_an_error_or_the_default(place: Run | Memory, path: str) -> None:
    await place.state().set_state(DictState(**CONTENT))

    with pytest.raises(ValueError, match="not found in state") as caught:
        await place.state().get(path)
    assert str(caught.value) == f"Path {path!r} not found in state"
    assert await place.state().get(path, default=None) is None
    assert await place.state().get(path, 5) == 5


async def test_the_empty_path_is_the_whole_state_and_cannot_be_set(place: Run | Memory) -> None:
    await place.state().set("n", 1)

    assert (await place.state().get("")).to_dict() == {"n": 1}
    for path in ("", ".a"):
        with pytest.raises(ValueError, match="names no key"):
            await place.state().set(path, 5)


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
async def test_set_puts_a_value_at_a_path(place: Run | Memory, before: Any, path: str, after: Any) -> None:
    await place.state().set_state(DictState(**before))
    await place.state().set(path, "v")

    assert (await place.state().get_state()).to_dict() == after
    assert await place.state().get(path) == "v"


@pytest.mark.parametrize("path", ["n.x", "none.x", "list.5", "list.x", "customer.age", "customer._x", "customer.born"])
async def test_set_refuses_what_cannot_hold_the_value(place: Run | Memory, path: str) -> None:
    before = DictState(n=1, none=None, list=[1], customer=Customer(name="x"))
    await place.state().set_state(before)

    with pytest.raises(ValueError, match=r"cannot be set|no field|valid date"):
        await place.state().set(path, "no date")
    assert await place.state().get_state() == before


async def test_a_path_has_at_most_1000_segments(place: Run | Memory) -> None:
    with pytest.raises(ValueError, match="1001 segments"):
        await place.state().set(".".join("a" * 1001), 1)
    with pytest.raises(ValueError, match="1001 segments"):
        await place.state().get(".".join("a" * 1001), default=1)


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


async def test_a_subclass_of_dict_state_may_declare_fields(place: Run | Memory) -> None:
    class Mixed(DictState):
        count: int = 0

    state = place.state(Mixed)
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


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("client", threading.Lock(), "client"),
        ("cart.client", threading.Lock(), "cart.client"),
        ("cart", {"items": [1, object()]}, "cart.items[1]"),
        ("n", float("nan"), "n"),
        ("keys", {"a": {1: {object()}}}, "keys.a.1[0]"),
    ],
)
async def test_a_value_that_cannot_be_stored_is_refused_by_name(run: Run, path: str, value: Any, place: str) -> None:
    await run.state().set("cart", {"n": 1})

    with pytest.raises(UnserializableValue) as caught:
        await run.state().set(path, value)
    assert repr(place) in str(caught.value)
    assert run.run_id in str(caught.value)
    if "Lock" in repr(type(value)) or (isinstance(value, dict) and "items" in value):
        assert "Resource" in str(caught.value)

    async def edit() -> None:
        async with run.state().edit_state() as state:
            state["cart"]["n"] = 2
            state["other"] = value

    with pytest.raises(UnserializableValue):
        await edit()
    assert run.raw() == {"cart": b'{"n":1}'}
    await run.state().set("cart", 2)  # the lock was released


async def test_a_model_whose_class_is_not_loaded_is_shown_but_not_damaged(run: Run) -> None:
    raw = b'{"__is_pydantic":true,"value":{"name":"Ada"},"qualified_name":"elsewhere.Customer"}'
    lost_class = {"customer": raw, "list": b"[" + raw + b"]"}
    run.store.client.hset(run.state_key(), mapping=lost_class)

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
    store = beside(blocking_store(settings, run.store.client))
    state = StateStore(StateAccess(store, run.run_id, run.run_id, DictState, None))

    await state.set("large", "x" * 200)
    assert "'large'" in caplog.text
    with pytest.raises(PayloadTooLarge, match=r"'huge' has 2,002 bytes, at most 1,000"):
        await state.set("huge", "x" * 2_000)
    assert set(run.raw()) == {"large"}


async def test_a_dict_like_model_is_a_state_too(place: Run | Memory) -> None:
    class Loose(DictLikeModel):
        n: int = 0

    await place.state(Loose).set("n", 1)
    await place.state(Loose).set("free", {"x": 1})

    found = await place.state(Loose).get_state()
    assert (found.n, found["free"]) == (1, {"x": 1})
    assert await place.state(Loose).get("free.x") == 1


async def test_a_caller_seeds_a_state_before_the_run_and_reads_it_after(store: Store) -> None:
    run_id = new_id()
    await Run(store, run_id, {}).state(Derived).set("count", 1)
    run = Run.start(store, run_id)

    async with run.state(Derived, run.claim("a")).edit_state() as state:
        state.count += 1
    store.finish(run.run_id, "completed", Envelope("umbel.StopEvent", (), b"{}"))

    assert await run.state(Derived).get("count") == 2
    assert store.client.pttl(store.locate(run.run_id)[f"state:{run.run_id}"]) > 0
