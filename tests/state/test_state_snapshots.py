"""A state in a snapshot: how an in-memory state and one in Redis are written and read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

from support.store.blocking import BlockingStore as Store
from support.store.memory_state import Client, Loose, More
from support.store.state import Base, Customer, Derived, Needy, Run, connected_store
from support.store.state_writer import beside
from umbel.orchestration.model.errors import ContextSerdeError, StoreUnavailable
from umbel.tasks.events.serializers import JsonSerializer, PickleSerializer
from umbel.tasks.state.access import StateAccess
from umbel.tasks.state.memory import InMemoryStateStore
from umbel.tasks.state.snapshot import UnserializableKeyWarning
from umbel.tasks.state.store import DictState, StateStore
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.redis_server import EmbeddedRedis

# -- in a snapshot -----------------------------------------------------------------------------------------------------


def test_a_dict_state_is_written_key_by_key() -> None:
    part = InMemoryStateStore(DictState(n=1, who=Customer(name="Ada"))).to_dict(JsonSerializer())

    data = part.pop("state_data")
    assert part == {
        "store_type": "in_memory",
        "state_type": "DictState",
        "state_module": "umbel.context.state_store",
    }
    assert set(data) == {"_data"}
    assert data["_data"]["n"] == "1"
    assert json.loads(data["_data"]["who"])["qualified_name"] == f"{Customer.__module__}.Customer"


def test_a_typed_state_is_written_as_one_text() -> None:
    part = InMemoryStateStore(Base(count=2)).to_dict()

    assert (part["state_type"], part["state_module"]) == ("Base", Base.__module__)
    assert json.loads(part["state_data"]) == {
        "__is_pydantic": True,
        "value": {"count": 2, "tags": []},
        "qualified_name": f"{Base.__module__}.Base",
    }


@pytest.mark.parametrize(
    "state",
    [
        DictState(),
        DictState(n=1, who=[Customer(name="Ada")], when=date(2026, 1, 2), copy=1, _data={"deep": {"x": None}}),
        Loose(count=2, free=Customer(name="Ada")),
        More(count=1, customer=Customer(name="Ada"), extra=2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("serializer", [None, JsonSerializer(), PickleSerializer()])
def test_a_state_comes_back_from_its_part_of_a_snapshot(state: BaseModel, serializer: Any) -> None:
    part = json.loads(json.dumps(InMemoryStateStore(state).to_dict(serializer)))
    again = InMemoryStateStore.from_dict(part, serializer).current_state()

    assert again == state
    assert type(again) is type(state)


def test_a_memory_that_cannot_be_written_stays_behind_with_a_warning() -> None:
    store = InMemoryStateStore(DictState(n=1, memory=Client()))
    with pytest.warns(UnserializableKeyWarning, match="no 'memory' of the state"):
        part = store.to_dict()
    assert InMemoryStateStore.from_dict(part).current_state() == DictState(n=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(InMemoryStateStore(DictState(memory=[1])).to_dict()["state_data"]["_data"]) == {"memory"}


def test_any_other_value_that_cannot_be_written_fails_all_of_it() -> None:
    with pytest.raises(ValueError, match=r"key 'tools'.*'client' holds a .*Client"):
        InMemoryStateStore(DictState(n=1, tools={"client": Client()})).to_dict()


@pytest.mark.parametrize(
    ("part", "state"),
    [
        (None, DictState()),
        ({}, DictState()),
        ({"state_type": "DictState", "state_data": None}, DictState()),
        ({"state_data": {"_data": {"n": "1"}}}, DictState(n=1)),
        ({"state_data": '{"_data": {"n": "1"}}'}, DictState(n=1)),
        (
            {"state_data": {"__is_pydantic": True, "value": {"count": 1}, "qualified_name": f"{Base.__module__}.Base"}},
            Base(count=1),
        ),
        (
            {"state_type": "Gone", "state_module": "gone", "state_data": {"_data": {"a": '{"b": 1}'}}},
            DictState(a={"b": 1}),
        ),
    ],
)
def test_the_state_of_older_snapshots_is_read(part: Any, state: BaseModel) -> None:
    assert InMemoryStateStore.from_dict(part).current_state() == state


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"store_type": "postgres", "run_id": "r"}, "store of type 'postgres'"),
        ({"store_type": 5}, "store_type"),
        ({"state_data": [1]}, "found a list"),
        ({"state_data": "5"}, "found a int"),
        ({"state_data": {"n": 1}}, "found a dict"),
        ({"state_data": "no json"}, "not JSON"),
        ({"state_data": {"_data": {"n": "no json"}}}, "Key 'n'"),
        ({"state_data": {"_data": {"n": 5}}}, "Key 'n'"),
        ({"state_data": '{"__is_pydantic": true, "value": {}, "qualified_name": "gone.State"}'}, "gone.State"),
    ],
)
def test_a_damaged_state_is_refused(part: Any, problem: str) -> None:
    with pytest.raises(ContextSerdeError) as caught:
        InMemoryStateStore.from_dict(part)
    assert problem in str(caught.value)


# -- a state in Redis, in a snapshot -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary(append_only=False, binary=find_server(search_path="")) as server:
        yield server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = connected_store(redis_url)
    yield store
    store.client.close()


@pytest.mark.parametrize(
    ("declared", "state"),
    [
        (DictState, DictState(n=1, who=[Customer(name="Ada")], when=date(2026, 1, 2))),
        (Loose, Loose(count=2, free=1)),
        (Derived, Derived(count=1)),
        (Derived, More(extra=2)),
    ],
)
@pytest.mark.parametrize("serializer", [None, JsonSerializer(), PickleSerializer()])
async def test_a_state_in_redis_is_written_like_one_in_memory(
    store: Store, declared: type[Any], state: Any, serializer: Any
) -> None:
    stored = Run.start(store).state(declared)
    await stored.set_state(state)
    part = stored.to_dict(serializer)

    assert InMemoryStateStore.from_dict(part, serializer).current_state() == state
    expected = InMemoryStateStore(state).to_dict(serializer)
    assert {**part, "state_data": None} == {**expected, "state_data": None}


async def test_a_state_in_redis_that_was_never_set_is_written_with_its_defaults(store: Store) -> None:
    run = Run.start(store)

    assert run.state(Base).to_dict() == InMemoryStateStore(Base()).to_dict()
    assert run.state().to_dict()["state_data"] == {"_data": {}}
    assert run.state(Needy).to_dict() == {}


async def test_a_model_whose_class_is_not_loaded_here_stays_what_it_is_in_a_snapshot(store: Store) -> None:
    run = Run.start(store)
    lost = {"__is_pydantic": True, "value": {"name": "Ada"}, "qualified_name": "elsewhere.Customer"}
    store.client.hset(run.state_key(), "customer", json.dumps(lost, separators=(",", ":")))

    assert json.loads(run.state().to_dict()["state_data"]["_data"]["customer"]) == lost


async def test_a_state_is_written_on_the_loop_that_its_steps_run_on(store: Store) -> None:
    run = Run.start(store)
    run.as_in_step = True
    await run.state().set("n", 1)

    assert run.state().to_dict()["state_data"] == {"_data": {"n": "1"}}


def test_a_plain_steps_store_is_written_too(store: Store) -> None:
    run = Run.start(store)
    state = run.plain_state()
    state.set("n", 1)

    assert state.to_dict()["state_data"] == {"_data": {"n": "1"}}


async def test_what_cannot_be_reached_cannot_be_written() -> None:
    away = connected_store("redis://127.0.0.1:1/0")
    away.patience_seconds = 0.05
    with pytest.raises(StoreUnavailable):
        StateStore(StateAccess(beside(away), "r", "r", DictState, None)).to_dict()
