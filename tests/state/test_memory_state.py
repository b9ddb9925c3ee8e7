"""The in-memory state, where it differs from one in Redis.

Their common behavior is tested in `test_state_store.py` and `test_state_typed.py`.
"""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from support.store.memory_state import Client, Linked, Loose, More, fields
from support.store.state import Base, Customer, Derived, Needy, Unrelated
from umbel.orchestration.model.errors import PayloadTooLarge, UnserializableValue
from umbel.tasks.state.memory import InMemoryStateStore, isolated_copy
from umbel.tasks.state.store import DictState

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
        # to_thread would copy the context, which says that this task is inside the block.
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


# -- fields ------------------------------------------------------------------------------------------------------------


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
