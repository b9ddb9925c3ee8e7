"""`ctx.store` with a state model: defaults, validation, inheritance."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from support.store.blocking import BlockingStore as Store
from support.store.state import Base, Customer, Derived, Memory, Needy, Run, Unrelated, connected_store
from umbel.tasks.state.store import DictState, StateMismatch
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


async def test_a_typed_state_begins_with_its_defaults_and_comes_back_typed(place: Run | Memory) -> None:
    state = place.state(Derived)
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
async def test_a_typed_state_refuses_what_it_does_not_declare(place: Run | Memory, path: str, value: Any) -> None:
    state = place.state(Derived)
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


async def test_a_state_of_a_subclass_replaces_and_one_of_a_parent_is_merged(place: Run | Memory) -> None:
    class More(Derived):
        extra: int = 1

    state = place.state(Derived)
    await state.set_state(More(count=1, extra=7, notes={"n": 1}))
    found = await state.get_state()
    assert (type(found), found.extra) == (More, 7)

    await state.set_state(Base(count=2, tags=["t"]))
    assert await state.get_state() == More(count=2, extra=7, notes={"n": 1}, tags=["t"])

    await state.clear()
    assert await state.get_state() == More()
    await state.set_state(More(extra=9))
    await state.set_state(Derived(count=3))
    assert await state.get_state() == More(count=3, extra=9)  # now the state of a parent class


async def test_a_state_of_an_unrelated_class_is_refused(run: Run) -> None:
    for cls, state in ((Derived, Unrelated()), (Derived, DictState()), (DictState, Derived()), (Derived, {"count": 1})):
        with pytest.raises(ValueError, match=f"State must be of type {cls.__name__}") as caught:
            await run.state(cls).set_state(state)  # type: ignore[arg-type]
        assert type(state).__name__ in str(caught.value)
    assert run.raw() == {}


async def test_clear_needs_defaults_for_all_fields(place: Run | Memory) -> None:
    state = place.state(Needy)
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

    with pytest.raises(StateMismatch, match=r"count: .*valid integer") as caught:
        await run.state(Derived).get_state()
    assert run.run_id in str(caught.value)


async def test_excluded_fields_stay_behind(run: Run) -> None:
    class WithClient(BaseModel):
        n: int = 0
        client: Any = Field(default=None, exclude=True)

    async with run.state(WithClient).edit_state() as state:
        state.n, state.client = 1, threading.Lock()

    assert await run.state(WithClient).get_state() == WithClient(n=1)


class Growing(BaseModel):
    seen: list[int] = []

    @model_validator(mode="after")
    def _grow(self) -> Growing:
        self.seen.append(len(self.seen))
        return self


class Keeping(BaseModel):
    one: Growing = Growing.model_construct(seen=[])
    several: list[Growing] = []


async def test_validators_of_values_that_are_put_into_a_state_do_not_run_again(place: Run | Memory) -> None:
    state, mine = place.state(Keeping), Growing()

    await state.set("one", mine)
    async with state.edit_state() as edited:
        edited.several = [mine]

    kept = await state.get_state()
    assert (mine.seen, kept.one.seen, kept.several[0].seen) == ([0], [0], [0])


class Item(BaseModel):
    x: int = 1


class Shelf(BaseModel):
    items: dict[str, Item] = Field(default_factory=dict)
    perhaps: dict[str, list[Item]] | None = None
    row: list[int] = Field(default_factory=list)
    loose: dict[str, Any] = Field(default_factory=dict)


async def test_a_value_set_by_path_has_the_type_that_its_container_declares(place: Run | Memory) -> None:
    state = place.state(Shelf)

    await state.set("items.a.x", 1)
    await state.set("items.b", {"x": "2"})
    await state.set("items.a.x", 3)
    await state.set("perhaps", {"a": [Item()]})
    await state.set("perhaps.a.0", {"x": 4})
    await state.set("row", [1, 2])
    await state.set("row.1", "5")
    await state.set("loose.a.b", {"x": 6})

    assert await state.get_state() == Shelf(
        items={"a": Item(x=3), "b": Item(x=2)},
        perhaps={"a": [Item(x=4)]},
        row=[1, 5],
        loose={"a": {"b": {"x": 6}}},
    )


@pytest.mark.parametrize(("path", "value"), [("items.b.x", "no"), ("items.b", "garbage"), ("row.0", "x")])
async def test_a_value_that_the_type_of_its_container_forbids_is_refused(
    place: Run | Memory, path: str, value: Any
) -> None:
    state = place.state(Shelf)
    await state.set("row", [1])

    with pytest.raises(ValidationError, match="valid"):
        await state.set(path, value)

    assert await state.get_state() == Shelf(row=[1])
