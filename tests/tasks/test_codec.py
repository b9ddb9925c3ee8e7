"""Events as envelopes: what goes in comes back equal, and what could not come back is refused with the place."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import subprocess
import sys
import types
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    PrivateAttr,
    computed_field,
    field_serializer,
    model_serializer,
)
from umbel.orchestration.envelope import FAILED, START, STEP_FAILED, STOP, Envelope, ending, internal
from umbel.orchestration.errors import PayloadTooLarge, UnknownEvent, UnserializableValue, WorkflowValidationError
from umbel.orchestration.settings import Settings
from umbel.tasks import class_names, events
from umbel.tasks.codec import EventMismatch, EventRegistry, decode_event, encode_event, encode_exception, event_name
from umbel.tasks.events import BUILT_IN_EVENTS, Event, StartEvent, StepFailedEvent, StopEvent, UnhandledEvent
from umbel.tasks.json_values import from_json_value, to_json_value

LIMITS = Settings()
T = TypeVar("T")


class Colour(Enum):
    RED = "red"


class Customer(BaseModel):
    name: str
    since: date | None = None


class Base(Event):
    number: int


class Order(Base):
    when: datetime | None = None
    raw: bytes = b""
    customer: Customer | None = None
    prices: dict[str, Decimal] = Field(default_factory=dict)
    pair: tuple[int, str] = (0, "")
    seen: set[int] = Field(default_factory=set)
    colour: Colour = Colour.RED
    by_number: dict[int, list[float]] = Field(default_factory=dict)
    _private: int = PrivateAttr(default=0)


class Nested(Order):
    class Inner(Event):
        x: int = 0


class Box(Event, Generic[T]):
    content: T


class Anything(Event):
    value: Any = None


class Report(StopEvent):
    pages: int


REGISTRY = EventRegistry.of([Order, Base, Anything, Report])


def _round_trip(event: Event, registry: EventRegistry = REGISTRY) -> Event:
    envelope = encode_event(event, LIMITS)
    stored = Envelope.from_bytes(envelope.to_bytes())
    assert stored == envelope
    json.loads(envelope.payload.decode("utf-8"), parse_constant=lambda name: pytest.fail(name))
    return decode_event(stored, registry)


@pytest.mark.parametrize(
    "event",
    [
        Event(),
        Event(a=1, nothing=None, flags=[True, False], empty=[], also={}, text="ü€😀", big=2**53 + 1, bigger=10**40),
        Order(number=2**63),
        Order(
            number=-1,
            when=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            raw="ünï".encode(),
            customer=Customer(name="Ada", since=date(2020, 2, 29)),
            prices={"a": Decimal("0.10")},
            pair=(3, "x"),
            seen={1, 2},
            by_number={1: [], 2: [0.1, 1e300]},
            note={"deep": [[], {}]},
        ),
        Event(customer=Customer(name="Ada"), several=[Customer(name="B"), {"c": Customer(name="C")}]),
        Event(
            at=datetime(2026, 1, 2, tzinfo=UTC),
            day=date(2026, 1, 2),
            hour=time(3, 4),
            span=timedelta(days=1, microseconds=3),
            price=Decimal("1.10"),
            key=UUID(int=5),
            raw=b"\xff\x00",
        ),
        Event(mine={"__is_pydantic": True, "value": {"name": "x"}, "qualified_name": f"{__name__}.Customer"}),
        Event(**{"__is_pydantic": 1, "value": 2, "": 3, "_x": 4, "a b": 5, "self": 6, "payload": 7}),
        StopEvent(),
        StopEvent(result=Customer(name="Ada")),
        StopEvent(result=[Customer(name="Ada"), 2**70]),
        StopEvent(result={"__is_pydantic": False}, note=b"x"),
        Report(pages=2),
        Nested.Inner(x=2),
        Anything(value=[1, {"a": None}]),
    ],
    ids=lambda event: repr(event)[:40],
)
def test_an_event_comes_back_equal_and_of_its_class(event: Event) -> None:
    again = _round_trip(event)

    assert type(again) is type(event)
    assert again == event
    assert again.to_dict() == event.to_dict()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.binary()
    | st.datetimes()
    | st.timedeltas()
    | st.builds(Customer, name=st.text(), since=st.none() | st.dates()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("__is_pydantic"), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values))
def test_dynamic_data_come_back_exactly(data: dict[str, Any]) -> None:
    event = Event()
    for key, value in data.items():
        event[key] = value

    assert _round_trip(event).to_dict() == data


@given(json_values)
def test_a_result_comes_back_exactly(result: Any) -> None:
    assert _round_trip(StopEvent(result)).result == result  # type: ignore[attr-defined]


@given(
    st.builds(
        Order,
        number=st.integers(),
        when=st.none() | st.datetimes(),
        raw=st.text().map(str.encode),
        prices=st.dictionaries(st.text(), st.decimals(allow_nan=False, allow_infinity=False)),
        pair=st.tuples(st.integers(), st.text()),
        seen=st.sets(st.integers()),
        by_number=st.dictionaries(st.integers(), st.lists(st.floats(allow_nan=False, allow_infinity=False))),
    )
)
def test_declared_fields_come_back_exactly(event: Order) -> None:
    assert _round_trip(event) == event


@given(
    st.recursive(
        st.none() | st.floats() | st.text(st.characters()) | st.binary() | st.builds(object) | st.complex_numbers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
        max_leaves=8,
    )
)
def test_any_value_either_travels_or_is_refused_by_name(value: Any) -> None:
    for event in (Event(x=value), StopEvent(value), Anything(value=value)):
        try:
            envelope = encode_event(event, LIMITS)
        except UnserializableValue as refusal:
            assert event_name(type(event)) in str(refusal)
        else:
            decode_event(Envelope.from_bytes(envelope.to_bytes()), REGISTRY)


def test_tuples_in_dynamic_data_become_lists() -> None:
    assert _round_trip(Event(pair=(1, (2, 3)))).to_dict() == {"pair": [1, [2, 3]]}


def test_private_attributes_and_computed_fields_stay_behind() -> None:
    class Sum(Event):
        a: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.a

    again = _round_trip(Order(number=1, _private=5))

    assert isinstance(again, Order)
    assert again._private == 0
    assert encode_event(Sum(a=2), LIMITS).payload == b'{"a":2}'
    assert _round_trip(Sum(a=2)) == Sum(a=2)


def test_what_pydantic_needs_json_mode_for_comes_back() -> None:
    class Demanding(Event):
        model_config = ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64")
        when: datetime
        raw: bytes
        seen: set[int]
        parsed: Json[list[int]]
        order_id: int = Field(alias="orderId")
        odd: int = Field(default=1, validation_alias="in", serialization_alias="out")

    event = Demanding(
        when=datetime(2026, 1, 1, tzinfo=UTC), raw=b"\xff", seen={1}, parsed="[1, 2]", orderId=4, extra=[5]
    )
    event.odd = 9

    assert _round_trip(event) == event


def test_aliases_of_stop_events_and_nested_models_come_back() -> None:
    class Line(BaseModel):
        model_config = ConfigDict(strict=True)
        line_no: int = Field(alias="lineNo")
        day: date

    class Done(StopEvent):
        order_id: int = Field(alias="orderId")
        lines: list[Line]

    event = Done(orderId=4, lines=[Line(lineNo=1, day=date(2026, 1, 1))], best=Line(lineNo=2, day=date(2026, 1, 2)))

    assert _round_trip(event) == event


def test_an_event_with_a_constructor_of_its_own_comes_back() -> None:
    class Positional(Event):
        number: int

        def __init__(self, number: int = 0, **rest: Any) -> None:
            super().__init__(number=number, **rest)

    assert _round_trip(Positional(3, customer=Customer(name="x"))) == Positional(3, customer=Customer(name="x"))


def test_a_parametrised_generic_event_comes_back() -> None:
    again = _round_trip(Box[Customer](content=Customer(name="Ada")))

    assert again == Box[Customer](content=Customer(name="Ada"))
    assert encode_event(again, LIMITS).parents == (f"{__name__}.Box",)


def test_a_failed_step_event_comes_back_with_what_it_failed_on() -> None:
    failed = StepFailedEvent(
        step_name="work",
        input_event=Order(number=1, customer2=Customer(name="Ada")),
        exception=ValueError("boom"),
        attempts=1,
        elapsed_seconds=0.0,
        failed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )

    again = _round_trip(failed)

    assert isinstance(again, StepFailedEvent)
    assert again.input_event == failed.input_event
    assert (type(again.exception), again.exception.args) == (ValueError, ("boom",))


def test_a_failed_step_event_may_wrap_an_event_of_full_depth() -> None:
    deep: list[Any] = []
    for _ in range(197):
        deep = [deep]
    inner = encode_event(Event(deep=deep), LIMITS)
    wrapped = {
        "step_name": "work",
        "input_event": {"type": inner.type, "parents": [], "value": inner.value()},
        "exception": encode_exception(ValueError("boom")),
        "attempts": 1,
        "elapsed_seconds": 0.5,
        "failed_at": "2026-01-01T00:00:00Z",
    }

    again = decode_event(Envelope(STEP_FAILED, (), json.dumps(wrapped).encode()), REGISTRY)

    assert isinstance(again, StepFailedEvent)
    assert again.input_event == Event(deep=deep)


def test_events_made_by_the_orchestrator_decode() -> None:
    stray = decode_event(
        internal("umbel.UnhandledEvent", event_type="Stray", qualified_name="shop.Stray", step_name=None, idle=True),
        REGISTRY,
    )
    failed = decode_event(ending(FAILED, step_name="a", exception=encode_exception(KeyError("k"))), REGISTRY)

    assert stray == UnhandledEvent(event_type="Stray", qualified_name="shop.Stray", idle=True)
    assert isinstance(failed, events.WorkflowFailedEvent)
    assert failed.exception.args == ("k",)


def test_wire_names_are_module_and_qualified_name() -> None:
    assert event_name(Order) == f"{__name__}.Order"
    assert event_name(Nested.Inner) == f"{__name__}.Nested.Inner"
    assert (event_name(StartEvent), event_name(StopEvent)) == (START, STOP)
    assert {name for name in vars(events) if isinstance(getattr(events, name), type)} >= {
        name.removeprefix("umbel.") for name in BUILT_IN_EVENTS
    }


def test_an_envelope_names_the_parents_nearest_first() -> None:
    assert encode_event(Nested(number=1), LIMITS).parents == (event_name(Order), event_name(Base))
    assert encode_event(Order(number=1), LIMITS).parents == (event_name(Base),)
    assert encode_event(Report(pages=1), LIMITS).parents == (STOP,)
    assert encode_event(Event(), LIMITS).parents == ()


def _main(spec_name: str | None, file: str | None) -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__spec__ = None if spec_name is None else importlib.util.spec_from_loader(spec_name, loader=None)
    if file is not None:
        main.__file__ = file
    return main


@pytest.mark.parametrize(
    ("spec_name", "file", "expected"),
    [
        ("shop.flows", "/srv/shop/flows.py", "shop.flows"),
        (None, "/srv/shop/flows.py", "flows"),
        (None, "flows.py", "flows"),
        (None, None, "__main__"),
    ],
)
def test_the_main_module_is_named_as_others_import_it(
    monkeypatch: pytest.MonkeyPatch, spec_name: str | None, file: str | None, expected: str
) -> None:
    main = _main(spec_name, file)
    monkeypatch.setitem(sys.modules, "__main__", main)

    for own_name in ("__main__", "__mp_main__"):
        local = type("Placed", (Event,), {"__module__": own_name, "__qualname__": "Placed"})
        assert event_name(local) == f"{expected}.Placed"
        main.Placed = local  # type: ignore[attr-defined]
        assert class_names.loaded_class(f"{expected}.Placed", Event) is local
    assert class_names.module_path("shop.other") == "shop.other"


def test_a_program_and_a_module_give_a_class_the_same_name(tmp_path: Path) -> None:
    program = tmp_path / "shop_flows.py"
    program.write_text(
        "from umbel.tasks.codec import event_name\n"
        "from umbel.tasks.events import Event\n"
        "class Placed(Event): ...\n"
        "print(event_name(Placed))\n"
    )

    said = [
        subprocess.run([sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for how in ([str(program)], ["-m", "shop_flows"], ["-c", "import shop_flows"])
    ]

    assert said == ["shop_flows.Placed\n"] * 3


def test_a_class_that_is_loaded_but_not_registered_is_found() -> None:
    class Local(Event):
        x: int

    assert _round_trip(Local(x=1), EventRegistry.of([])) == Local(x=1)


def test_an_unknown_event_names_itself_and_the_known_ones() -> None:
    with pytest.raises(UnknownEvent) as caught:
        decode_event(Envelope("shop.gone.Lost", (), b"{}"), EventRegistry.of([Order, Base]))

    assert "'shop.gone.Lost'" in str(caught.value)
    assert event_name(Order) in str(caught.value)
    assert "Import the module" in str(caught.value)


def test_names_in_stored_data_import_nothing() -> None:
    unloaded = "xmlrpc.server"
    sys.modules.pop(unloaded, None)
    lazy = types.ModuleType("lazy_shop")
    lazy.__getattr__ = lambda name: pytest.fail(f"{name} was asked for")  # type: ignore[method-assign]
    sys.modules["lazy_shop"] = lazy
    try:
        for name in (f"{unloaded}.Fault", "lazy_shop.Lost"):
            with pytest.raises(UnknownEvent):
                decode_event(Envelope(name, (), b"{}"), REGISTRY)
            tagged = {"__is_pydantic": True, "value": {"a": 1}, "qualified_name": name}
            assert from_json_value(tagged) == {"a": 1}
    finally:
        del sys.modules["lazy_shop"]
    assert unloaded not in sys.modules


def test_a_tagged_value_is_only_ever_a_pydantic_model() -> None:
    tagged = {"__is_pydantic": True, "value": {"args": "true"}, "qualified_name": "subprocess.Popen"}

    assert from_json_value(tagged) == {"args": "true"}


def test_the_built_in_events_are_always_registered() -> None:
    assert EventRegistry.of([]).find("umbel.StopEvent") is StopEvent
    assert set(EventRegistry.of([Order]).classes) == {*BUILT_IN_EVENTS, event_name(Order)}


def test_two_classes_of_one_name_are_refused() -> None:
    def make() -> type[Event]:
        class Twin(Event):
            pass

        return Twin

    with pytest.raises(WorkflowValidationError, match=r"make\.<locals>\.Twin"):
        EventRegistry.of([make(), make()])
    twin = make()
    EventRegistry.of([twin, twin])


def test_a_payload_that_no_longer_fits_names_event_and_fields() -> None:
    stored = Envelope(event_name(Order), (), b'{"number":"many","seen":5}')

    with pytest.raises(EventMismatch) as caught:
        decode_event(stored, REGISTRY)

    text = str(caught.value)
    assert event_name(Order) in text
    assert "number: Input should be a valid integer" in text
    assert "seen: " in text
    assert "default" in text
    assert "many" not in text


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"5", b'{"number":1}trailing', b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_json_object_is_an_error_that_names_the_event(payload: bytes) -> None:
    with pytest.raises(EventMismatch, match=r"\.Order"):
        decode_event(Envelope(event_name(Order), (), payload), REGISTRY)


def test_a_tagged_value_that_no_longer_fits_is_an_error_that_names_the_event() -> None:
    tagged = {"__is_pydantic": True, "value": {"nom": "x"}, "qualified_name": f"{__name__}.Customer"}
    stored = Envelope("umbel.Event", (), json.dumps({"_data": {"customer": tagged}}).encode())

    with pytest.raises(EventMismatch, match=r"umbel\.Event.*name: Field required"):
        decode_event(stored, REGISTRY)


@dataclass
class Plain:
    x: int = 0


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep(levels: int) -> list[Any]:
    deep: list[Any] = []
    for _ in range(levels - 1):
        deep = [deep]
    return deep


class Inner(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    things: list[Any]


class Outer(Event):
    inner: Inner


class Broken(Event):
    value: int = 0

    @field_serializer("value")
    def _fail(self, value: int) -> int:
        raise RuntimeError("no way")


@pytest.mark.parametrize(
    ("event", "place", "problem"),
    [
        (Event(a={"b": [0, object()]}), "'a.b[1]'", "builtins.object"),
        (Event(a={1, 2}), "'a'", "builtins.set"),
        (Event(a=Plain()), "'a'", f"{__name__}.Plain"),
        (Event(a=Colour.RED), "'a'", f"{__name__}.Colour"),
        (Event(a={1: 2}), "'a'", "key 1 of type int"),
        (Event(a=math.nan), "'a'", "nan"),
        (Event(a=[math.inf]), "'a[0]'", "inf"),
        (Event(a="\ud800"), "'a'", "U+D800"),
        (Event(a={"\udfff": 1}), "'a'", "a key with half a surrogate pair (U+DFFF)"),
        (Event(a=10**5000), "'a'", "too long to write"),
        (Event(a=_circle()), "'a[0][0]", "contains itself"),
        (Event(a=_deep(250)), "'a[0][0]", "deeper than 200 levels"),
        (Event(a=Inner(things=[object()])), "'a.things[0]'", "builtins.object"),
        (StopEvent(result=[Plain()]), "'result[0]'", f"{__name__}.Plain"),
        (Anything(value=object()), "'value'", "builtins.object"),
        (Anything(value={"a": (1, [object()])}), "'value.a[1][0]'", "builtins.object"),
        (Anything(value=b"\xff"), "'value'", "bytes that are not UTF-8"),
        (Anything(value=math.nan), "'value'", "nan"),
        (Anything(value="a\udc00"), "'value'", "U+DC00"),
        (Anything(value=_circle()), "'value'", "contains itself"),
        (Anything(value=_deep(230)), "'value[0][0]", "deeper than 200 levels"),
        (Anything(value=_deep(400)), "'value'", "deeper than 200 levels"),
        (Outer(inner=Inner(things=[1, {"x": object()}])), "'inner.things[1].x'", "builtins.object"),
        (Broken(), "'value'", "no way"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_the_place(event: Event, place: str, problem: str) -> None:
    with pytest.raises(UnserializableValue) as caught:
        encode_event(event, LIMITS)

    text = str(caught.value)
    assert text.startswith(f"{event_name(type(event))} cannot be sent: {place}")
    assert problem in text
    assert len(text) < 600


def test_an_event_that_writes_itself_as_something_else_is_refused() -> None:
    class Scalar(Event):
        @model_serializer(mode="plain")
        def _dump(self) -> int:  # type: ignore[override]
            return 5

    with pytest.raises(UnserializableValue, match="writes itself as int instead of a dict"):
        encode_event(Scalar(), LIMITS)


def test_nesting_up_to_the_limit_is_fine() -> None:
    # the payload and `_data` are two levels
    assert _round_trip(Event(deep=_deep(198))) == Event(deep=_deep(198))
    assert _round_trip(Anything(value=_deep(199))) == Anything(value=_deep(199))
    with pytest.raises(UnserializableValue, match="deeper than 200"):
        encode_event(Event(deep=_deep(199)), LIMITS)
    with pytest.raises(UnserializableValue, match="deeper than 200"):
        encode_event(Anything(value=_deep(200)), LIMITS)


def test_wide_events_are_not_mistaken_for_deep_ones() -> None:
    event = Event(rows=[{"a": []} for _ in range(500)])

    assert _round_trip(event) == event


def test_a_large_event_is_logged_once_per_class(caplog: pytest.LogCaptureFixture) -> None:
    class Large(Event):
        text: str

    limits = Settings(payload_warn_bytes=100, payload_max_bytes=1000)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            encode_event(Large(text="x" * 200), limits)
        encode_event(Large(text="x"), limits)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Large has 211 bytes, more than 100" in caplog.text


def test_a_too_large_event_is_refused_by_name_and_size() -> None:
    limits = Settings(payload_warn_bytes=100, payload_max_bytes=1000)

    encode_event(Event(text="x" * 975), limits)
    with pytest.raises(PayloadTooLarge, match=r"umbel\.Event cannot be sent: it has 1,020 bytes, at most 1,000"):
        encode_event(Event(text="x" * 999), limits)


def test_a_forged_tag_in_dynamic_data_stays_a_dict() -> None:
    forged = {"__is_pydantic": True, "value": {"name": "x"}, "qualified_name": f"{__name__}.Customer"}

    assert from_json_value(to_json_value(forged)) == forged
    assert _round_trip(Anything(value=forged)).value == forged  # type: ignore[attr-defined]


def test_a_serializer_of_a_users_own_is_respected() -> None:
    class Masked(Event):
        day: Annotated[date, PlainSerializer(lambda day: day.isoformat()[:10])]

    assert encode_event(Masked(day=date(2026, 1, 2)), LIMITS).payload == b'{"day":"2026-01-02"}'
