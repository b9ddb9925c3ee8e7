"""The state in memory, as far as it differs from one in Redis, and what both become in a snapshot.

What they have in common is tested in `test_state_store.py` and `test_state_typed.py`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from support.store.blocking import BlockingStore as Store
from support.store.state import Base, Customer, Derived, Needy, Run, Unrelated, connected_store
from support.store.state_writer import beside
from umbel.orchestration.model.errors import ContextSerdeError, PayloadTooLarge, StoreUnavailable, UnserializableValue
from umbel.orchestration.store.settings import Settings
from umbel.tasks.events.serializers import JsonSerializer, PickleSerializer
from umbel.tasks.state.fields import StateFields
from umbel.tasks.state.memory import InMemoryStateStore, isolated_copy
from umbel.tasks.state.snapshot import UnserializableKeyWarning
from umbel.tasks.state.store import DictState, StateStore
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.redis_server import EmbeddedRedis


class Client:
    """What cannot be copied, and not be written."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Linked(BaseModel):
    name: str = ""
    other: Any = None


class More(Derived):
    extra: int = 1


class Loose(DictState):
    count: int = 0


def fields(cls: type[Any] = DictState, **settings: Any) -> StateFields[Any]:
    return StateFields(cls, "r1", Settings(**settings))


# -- edits -------------------------------------------------------------------------------------------------------------


async def test_an_edit_is_isolated_until_its_end() -> None:
    store = InMemoryStateStore(DictState(n=1, items=[{"a": 1}]))
    async with store.edit_state() as state:
        state.n = 2
        state["items"][0]["a"] = 2
        assert await store.get("n") == 1
        assert await store.get("items.0.a") == 1
        assert (await store.get_state()).to_dict() == {"n": 1, "items": [{"a": 1}]}

    assert (await store.get_state()).to_dict() == {"n": 2, "items": [{"a": 2}]}


async def test_an_edit_that_raises_changes_nothing() -> None:
    store = InMemoryStateStore(Derived(notes={"a": [1]}))

    async def edit() -> None:
        async with store.edit_state() as state:
            state.notes["a"].append(2)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await edit()
    assert await store.get_state() == Derived(notes={"a": [1]})
    await store.set("count", 1)


async def test_a_writer_inside_an_edit_is_refused() -> None:
    store, other = InMemoryStateStore(DictState()), InMemoryStateStore(DictState())

    async def nested() -> None:
        async with store.edit_state():
            pass

    async with store.edit_state() as edited:
        edited.n = 1
        for write in (
            lambda: store.set("n", 2),
            lambda: store.set_state(DictState()),
            store.clear,
            nested,
            lambda: asyncio.create_task(store.set("n", 2)),  # would wait for its own parent
        ):
            with pytest.raises(RuntimeError) as caught:
                await write()
            assert str(caught.value) == "writer called inside edit_state: mutate the yielded state instead"
        await other.set("n", 1)

    assert await store.get("n") == 1
    await store.set("n", 2)


async def test_edits_of_many_tasks_lose_nothing() -> None:
    store = InMemoryStateStore(Base())

    async def add() -> None:
        async with store.edit_state() as state:
            before = state.count
            await asyncio.sleep(0)
            state.count = before + 1

    await asyncio.gather(*(add() for _ in range(50)))
    assert await store.get("count") == 50


async def test_a_writer_waits_for_an_open_edit() -> None:
    store, inside, go_on = InMemoryStateStore(DictState(n=1)), asyncio.Event(), asyncio.Event()

    async def edit() -> None:
        async with store.edit_state() as state:
            inside.set()
            await go_on.wait()
            state.n += 1

    editing = asyncio.create_task(edit())
    await inside.wait()
    setting = asyncio.create_task(store.set("m", 5))
    await asyncio.sleep(0)
    assert not setting.done()
    go_on.set()
    await asyncio.gather(editing, setting)

    assert (await store.get_state()).to_dict() == {"n": 2, "m": 5}


def test_a_store_may_be_used_on_one_event_loop_after_another() -> None:
    store = InMemoryStateStore(Base())

    async def add() -> None:
        async def one() -> None:
            async with store.edit_state() as state:
                await asyncio.sleep(0)
                state.count += 1

        await asyncio.gather(one(), one())

    asyncio.run(add())
    asyncio.run(add())
    assert store.current_state().count == 4


async def test_a_second_event_loop_is_refused_during_an_edit() -> None:
    store = InMemoryStateStore(Base())

    async with store.edit_state():
        # Not to_thread, which would take along that this task is inside the block.
        elsewhere = asyncio.get_running_loop().run_in_executor(None, asyncio.run, store.set("count", 1))
        with pytest.raises(RuntimeError, match="another event loop"):
            await elsewhere


# -- values ------------------------------------------------------------------------------------------------------------


async def test_values_are_kept_by_reference() -> None:
    client, items = Client(), [1]
    initial = DictState(client=client, items=items)
    store = InMemoryStateStore(initial)
    initial.n = 1  # the state itself was copied
    items.append(2)
    (await store.get("items")).append(3)
    copy = await store.get_state()
    copy.m = 1
    copy["items"].append(4)

    assert await store.get("client") is client
    assert (await store.get_state()).to_dict() == {"client": client, "items": [1, 2, 3, 4]}


async def test_an_edit_shares_only_what_cannot_be_copied() -> None:
    client, inner = Client(), Customer(name="Ada")
    store = InMemoryStateStore(
        DictState(
            free=[1], tools={"client": client, "n": [1], "pair": (client, [1]), "m": Linked(other=[client, inner])}
        )
    )
    before = (await store.get_state()).to_dict()
    async with store.edit_state() as state:
        tools = state.tools
        assert tools["client"] is tools["pair"][0] is tools["m"].other[0] is client
        state.free.append(2)
        tools["n"].append(2)
        tools["pair"][1].append(2)
        tools["m"].other[1].name = "Bo"

        assert before["free"] == before["tools"]["n"] == before["tools"]["pair"][1] == [1]
        assert inner.name == "Ada"
    assert await store.get("tools.m.other.1.name") == "Bo"


async def test_an_edit_shares_excluded_fields() -> None:
    class WithClient(BaseModel):
        client: Any = Field(default=None, exclude=True)
        items: list[int] = Field(default_factory=list)

    shared = {"a": 1}
    store = InMemoryStateStore(WithClient(client=shared))
    async with store.edit_state() as state:
        assert state.client is shared
        state.items.append(1)
    assert await store.get("items") == [1]
    assert await store.get("client") is shared


def test_a_copy_of_what_contains_itself_and_a_client_ends() -> None:
    one, circle = Linked(name="one"), []
    circle.extend([Client(), one, circle])
    one.other = circle

    copied = isolated_copy(DictState(one=one, again=one))
    assert copied.one is copied.again is copied.one.other[1]
    assert copied.one is not one
    assert copied.one.other[2] is copied.one.other
    assert copied.one.other[0] is circle[0]


async def test_merging_a_parents_state_changes_all_of_it_or_nothing() -> None:
    class Strict(Base):
        count: int = Field(default=0, lt=10)

    store = InMemoryStateStore(Strict(tags=["old"]))
    with pytest.raises(ValidationError):
        await store.set_state(Base(tags=["new"], count=11))
    assert await store.get_state() == Strict(tags=["old"])


async def test_a_state_of_an_unrelated_class_is_refused() -> None:
    store = InMemoryStateStore(Derived())
    with pytest.raises(ValueError, match="State must be of type Derived") as caught:
        await store.set_state(Unrelated())
    assert "got Unrelated" in str(caught.value)


async def test_the_class_of_the_state_is_that_of_the_last_one_set() -> None:
    store: InMemoryStateStore[Any] = InMemoryStateStore(Derived())
    await store.set_state(More(extra=7))
    assert store.state_type is More
    await store.clear()
    assert await store.get_state() == More()


# -- as fields ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "state", "raw"),
    [
        (DictState, DictState(), {}),
        (DictState, DictState(n=1, items={"a": None}), {"n": b"1", "items": b'{"a":null}'}),
        (Base, Base(count=2), {"count": b"2", "tags": b"[]"}),
        (Loose, Loose(count=2, free=1), {"count": b"2", "free": b"1"}),
    ],
)
def test_a_state_becomes_the_fields_of_the_one_in_redis_and_comes_back(
    declared: type[Any], state: Any, raw: dict[str, bytes]
) -> None:
    assert InMemoryStateStore(state).to_fields(fields(declared)) == raw

    again = fields(declared).load(raw)
    assert again == state
    assert type(again) is declared


def test_a_state_of_a_subclass_keeps_its_class_in_the_fields() -> None:
    state = More(count=1, extra=5, customer=Customer(name="Ada", born=date(1815, 12, 10)))
    raw = InMemoryStateStore(state).to_fields(fields(Derived))

    assert fields(Derived).load(raw) == state


async def test_a_state_without_defaults_has_no_fields_until_it_is_set() -> None:
    store = InMemoryStateStore.of_class(Needy)
    assert store.to_fields(fields(Needy)) == {}
    assert store.to_dict() == {}
    with pytest.raises(ValueError, match="State must have defaults"):
        await store.get("must")

    await store.set_state(Needy(must=3))
    assert store.to_fields(fields(Needy)) == {"must": b"3"}
    with pytest.raises(ValueError, match="State must have defaults"):
        fields(Needy).load({})


def test_fields_refuse_what_redis_would_not_take() -> None:
    with pytest.raises(UnserializableValue, match=r"'tools\.client'"):
        InMemoryStateStore(DictState(tools={"client": Client()})).to_fields(fields())
    with pytest.raises(PayloadTooLarge, match="'text'"):
        InMemoryStateStore(DictState(text="x" * 2_000)).to_fields(
            fields(payload_warn_bytes=100, payload_max_bytes=1_000)
        )


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
        StateStore(beside(away), "r", "r", DictState, None).to_dict()
