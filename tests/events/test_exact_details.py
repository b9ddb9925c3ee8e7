"""Details of values that equality does not show, or that JSON reads otherwise: they arrive, or the sender is told."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter, deque
from datetime import UTC, datetime, time, timedelta, timezone
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field

from support.values.carriers import CARRIERS, filled
from support.values.kinds import Box, Cat, Colour
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.errors import ContextSerdeError, UnserializableValue
from umbel.tasks.events.codec import EventRegistry, decode_event, encode_event
from umbel.tasks.events.serializers import JsonSerializer

LIMITS = Settings()
REGISTRY = EventRegistry.of([])


def sent(event: Any) -> Any:
    """Return the event as it arrives."""
    return decode_event(Envelope.from_bytes(encode_event(event, LIMITS).to_bytes()), REGISTRY)


def ways(value: Any) -> list[Any]:
    """Return the value as it arrives in each kind of field."""
    return [
        sent(Holder(value=value)).value,
        sent(Holder(value=[value, value])).value[1],
        sent(Event(x=value)).x,
        sent(Event(x={"k": [value]})).x["k"][0],
        sent(StopEvent(result=value)).result,
        JsonSerializer().deserialize(JsonSerializer().serialize(value)),
    ]


class Holder(Event):
    value: Any


# -- aliases that are names of other fields ----------------------------------------------------------------------------


class Swapped(Event):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Shifted(Event):
    name: str = Field(alias="title")
    title: str = Field(alias="heading")


class Chosen(Event):
    a: int = Field(default=0, validation_alias=AliasChoices("x", "b"))
    b: int = Field(default=0, validation_alias=AliasPath("a", "y"))


class SwappedPart(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Whole(Event):
    part: SwappedPart
    parts: dict[str, SwappedPart] = Field(default_factory=dict)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = Field(default=0, alias="b")


class HoldsOpen(Event):
    part: Open


@pytest.mark.parametrize(
    "event",
    [
        Swapped(b=1, a=2),
        Shifted(title="t", heading="h"),
        Chosen.model_construct(a=1, b=2),
        Whole(part=SwappedPart(b=1, a=2), parts={"k": SwappedPart(b=3, a=4)}),
    ],
)
def test_fields_keep_their_values_where_an_alias_is_the_name_of_another_field(event: Event) -> None:
    assert sent(event) == event
    assert all(again == event for again in ways(event))


def test_a_dynamic_value_whose_name_is_an_alias_of_a_field_stays_apart_from_it() -> None:
    part = Open(b=1)
    part.__pydantic_extra__ = {"b": 2}

    again = sent(HoldsOpen(part=part)).part

    assert (again.a, again.__pydantic_extra__) == (1, {"b": 2})


def test_after_a_change_of_the_class_fields_are_still_read_by_name() -> None:
    kept = encode_event(Swapped(b=1, a=2), LIMITS)
    changed = Envelope(kept.type, kept.parents, kept.payload.replace(b'"v":"', b'"v":"another', 1))

    again: Any = decode_event(changed, REGISTRY)

    assert (again.a, again.b) == (1, 2)


class CrossedState(BaseModel):
    a: int = Field(default=1, alias="b")
    b: int = Field(default=2, alias="a")


class Crossed(Workflow):
    """Sends and keeps fields whose aliases are names of each other."""

    @step
    async def begin(self, ctx: Context[CrossedState], ev: StartEvent) -> Swapped:
        async with ctx.store.edit_state() as state:
            state.a = 10
        return Swapped(b=1, a=2)

    @step
    async def end(self, ctx: Context[CrossedState], ev: Swapped) -> StopEvent:
        state = await ctx.store.get_state()
        once = await ctx.once("part", lambda: SwappedPart(b=5, a=6))
        return StopEvent(result=[ev.a, ev.b, state.a, state.b, await ctx.store.get("a"), once.a, once.b])


@pytest.mark.usefixtures("runtime")
async def test_a_run_keeps_fields_apart_whose_aliases_are_names_of_each_other() -> None:
    assert await Crossed(timeout=60).run() == [1, 2, 10, 2, 10, 5, 6]


# -- dataclasses -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Failure(Exception):
    code: int


@dataclasses.dataclass
class Row(list[int]):
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Pair(tuple[int, ...]):
    code: Any = 0


@dataclasses.dataclass
class Tags(set[str]):
    title: str = ""


@dataclasses.dataclass
class Word(str):
    label: str = "t"


@dataclasses.dataclass
class Doubling:
    x: int

    def __post_init__(self) -> None:
        self.double = (self.x, 2 * self.x)


@dataclasses.dataclass
class Slotted:
    __slots__ = ("_seen", "x")
    x: int


@dataclasses.dataclass
class Late:
    x: int
    y: int = dataclasses.field(init=False)

    @cached_property
    def lock(self) -> object:
        return object()


@pytest.mark.parametrize("value", [Failure(4), Row("t"), Pair((1, 2)), Tags("t")])
def test_a_dataclass_with_contents_that_are_no_fields_is_refused_where_it_is_sent(value: Any) -> None:
    name = type(value).__name__
    with pytest.raises(
        UnserializableValue, match=rf"'value\[0\]' holds a .*\.{name}, a dataclass that is also builtin"
    ):
        encode_event(Holder(value=[value]), LIMITS)
    with pytest.raises(UnserializableValue, match=rf"'result' holds a .*\.{name}, a dataclass"):
        encode_event(StopEvent(result=value), LIMITS)


class Keeper(Workflow):
    """Keeps a value that could not be read back."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(UnserializableValue, match="'p' holds a .*Failure, a dataclass"):
            await ctx.store.set("p", Failure(3))
        return StopEvent(result=Failure(4))


@pytest.mark.usefixtures("runtime")
async def test_a_run_with_a_result_that_cannot_be_read_fails_in_the_step_that_returns_it() -> None:
    handler = Keeper(timeout=60).run()

    with pytest.raises(UnserializableValue, match="'result' holds a .*Failure, a dataclass"):
        await handler


def test_a_dataclass_that_is_a_text_comes_back() -> None:
    for again in ways(Word("x")):
        assert (type(again), str.__str__(again), again.label) == (Word, "x", "x")


def test_attributes_of_a_dataclass_that_are_no_fields_come_back() -> None:
    slotted = Slotted(1)
    slotted._seen = {1: (2,)}  # type: ignore[attr-defined]

    assert all(vars(again) == {"x": 3, "double": (3, 6)} for again in ways(Doubling(3)))
    assert all(again._seen == {1: (2,)} for again in ways(slotted))


def test_an_attribute_that_cannot_be_sent_is_refused_with_its_place() -> None:
    value = Doubling(3)
    value.lock = object()  # type: ignore[attr-defined]

    with pytest.raises(UnserializableValue, match=r"Holder cannot be sent: 'value\.lock' holds a builtins\.object"):
        encode_event(Holder(value=value), LIMITS)


def test_a_field_that_was_never_set_is_not_set_where_it_arrives() -> None:
    value = Late(1)
    assert value.lock is value.lock  # computed again where it arrives

    assert all(vars(again) == {"x": 1} for again in ways(value))


# -- classes that others must find by name -----------------------------------------------------------------------------

LOOSE: Any = CARRIERS["int"]
READER = """
import sys
from support.values.carriers import CARRIERS
from umbel.orchestration.model.envelope import Envelope
from umbel.tasks.events.codec import EventRegistry, decode_event
for line in sys.stdin:
    event = decode_event(Envelope.from_bytes(bytes.fromhex(line)), EventRegistry.of([]))
    value = event.result if hasattr(event, "result") else event.get("x", getattr(event, "loose", None))
    print(f"{type(value).__name__} {value!r}")
"""


def test_a_parametrised_generic_is_made_where_it_is_not_known_yet() -> None:
    made: list[Any] = [
        Box[int](content=1),
        Box[dict[str, list[Cat]]](content={"a": [Cat(name="c")]}),
        Box[Box[int | None]](content=Box[int | None](content=None)),
        Box[Optional[Literal["x", 1]]](content=1),  # noqa: UP045
        Box[Any](content=(1, 2)),
        Box[tuple[Colour, ...]](content=(Colour.RED, Colour.BLUE)),
    ]
    fields = filled("int", [1, 2])
    events = [
        event
        for value in made
        for event in (StopEvent(result=value), Event(x=value), LOOSE.model_construct(**{**fields, "loose": value}))
    ]

    done = subprocess.run(
        [sys.executable, "-c", READER],
        input="\n".join(encode_event(event, LIMITS).to_bytes().hex() for event in events),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{type(value).__name__} {value!r}" for value in made for _ in range(3)]


def test_a_class_that_only_this_process_has_is_refused_where_it_is_sent() -> None:
    class Local(BaseModel):
        x: int

    @dataclasses.dataclass
    class Point:
        x: int

    class Named(str):
        pass

    class Kind(Enum):
        A = "a"

    for value in (Local(x=1), Point(1), Kind.A, Local, Box[Local](content=Local(x=1))):
        with pytest.raises(UnserializableValue, match=r"'x\[0\]' holds .*(Local|Point|Kind).*top level of a mod"):
            encode_event(Event(x=[value]), LIMITS)
    with pytest.raises(UnserializableValue, match=r"'x' holds a .*Named, .*Send str"):
        encode_event(Event(x=Named("a")), LIMITS)


def test_data_from_outside_make_no_class() -> None:
    text = JsonSerializer().serialize(Box[tuple[int, str]](content=(1, "a"))).replace("tuple[int, str]", "list[bytes]")
    stored = text.replace('"builtins.tuple", "builtins.int", "builtins.str"', '"builtins.list", "builtins.bytes"')
    name = f"{Box.__module__}.Box[list[bytes]]"

    with pytest.raises(ContextSerdeError, match="is not loaded|no class"):
        JsonSerializer(allowed_types=[Box, name]).deserialize(stored)


# -- what equality does not show ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [{1: "one"}, {True: "yes"}],
        [{1: "one"}, {1.0: "yes"}],
        [{0.0: "one"}, {-0.0: "yes"}],
        [Counter({1: 1}), Counter({True: 1})],
        deque([1, 2, 3], maxlen=3),
        deque([(1,), (2,)], maxlen=2),
        [deque([1], 1), deque([1], 2), deque([1])],
        datetime(2026, 10, 25, 2, 30, fold=1),
        datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(microseconds=1)), fold=1),
        datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(microseconds=-1))),
        time(2, 30, fold=1),
        time(2, 30, tzinfo=timezone(timedelta(hours=1, microseconds=7))),
        datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=1), "CET")),
        time(2, 30, tzinfo=timezone(timedelta(0), "Zulu"), fold=1),
    ],
    ids=repr,
)
def test_what_equality_does_not_show_arrives_too(value: Any) -> None:
    assert [repr(again) for again in ways(value)] == [repr(value)] * 6


class Millis(Event):
    model_config = ConfigDict(ser_json_temporal="milliseconds")
    at: datetime
    time: time


class Usual(Event):
    at: datetime
    time: time
    ring: deque[int] = Field(default_factory=deque)


@pytest.mark.parametrize("cls", [Millis, Usual])
@pytest.mark.parametrize(
    ("zone", "fold"), [(None, 0), (UTC, 0), (timezone(timedelta(hours=1), "CET"), 0), (None, 1)], ids=str
)
def test_times_in_declared_fields_arrive_as_they_were(cls: Any, zone: timezone | None, fold: int) -> None:
    at = datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)
    again = sent(cls(at=at, time=at.timetz()))

    assert [repr(again.at), repr(again.time)] == [repr(at), repr(at.timetz())]


def test_a_ring_buffer_in_a_declared_field_stays_one() -> None:
    event = Usual(at=datetime(2026, 1, 1), time=time(1), ring=deque([1, 2], maxlen=2))

    assert sent(event).ring.maxlen == 2


class Ring(Workflow):
    """Appends to a ring buffer in its state."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("last", deque([1, 2, 3], maxlen=3))
        async with ctx.store.edit_state() as state:
            state.last.append(4)
        return StopEvent(result=repr(await ctx.store.get("last")))


@pytest.mark.usefixtures("runtime")
async def test_a_ring_buffer_in_the_state_does_not_grow() -> None:
    assert await Ring(timeout=60).run() == "deque([2, 3, 4], maxlen=3)"
