"""Kinds of fields: a type, values of it, and models that have such a field in every position."""

from __future__ import annotations

import abc
import dataclasses
import enum
import ipaddress
import pathlib
import re
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pydantic
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    PlainSerializer,
    PostgresDsn,
    PrivateAttr,
    RootModel,
    SecretStr,
    SerializeAsAny,
    Strict,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import TypedDict

from umbel import Event

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("b", 2)


class Word(enum.StrEnum):
    A = "a"
    B = "b"


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Shape(BaseModel):
    name: str = "s"


class Circle(Shape):
    radius: float = 1.0


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


class Loud(BaseModel):
    kind: Literal["loud"] = "loud"
    volume: int = 1


class Quiet(BaseModel):
    kind: Literal["quiet"] = "quiet"


class Abstract(BaseModel, abc.ABC):
    @abc.abstractmethod
    def text(self) -> str: ...


class Concrete(Abstract):
    words: str = ""

    def text(self) -> str:
        return self.words


class Tree(BaseModel):
    value: int = 0
    children: list[Tree] = []
    parent: Shape | None = None


class Box(BaseModel, Generic[T]):
    content: T


class Names(RootModel[list[str]]):
    pass


class Shapes(RootModel[dict[str, Shape]]):
    pass


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 0


class Strictly(BaseModel):
    model_config = ConfigDict(strict=True)
    when: datetime
    raw: bytes = b""


class Aliased(BaseModel):
    order_id: int = Field(alias="orderId")


class Computing(BaseModel):
    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.a


class Excluding(BaseModel):
    hidden: str = Field(exclude=True)


class Doubling(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _double(cls, n: int) -> int:
        return 2 * n


class Counting(BaseModel):
    seen: list[int] = []
    _made: int = PrivateAttr(default=0)

    def model_post_init(self, context: Any) -> None:
        self.seen.append(len(self.seen))
        self._made = len(self.seen)


class Plus(BaseModel):
    x: int

    def __init__(self, x: int = 0, **more: Any) -> None:
        super().__init__(x=x + 1, **more)


class Whole(BaseModel):
    n: int = 0

    @model_validator(mode="after")
    def _more(self) -> Whole:
        self.n += 1
        return self


class Showing(BaseModel):
    day: date
    n: int = 0

    @field_serializer("day")
    def _year(self, day: date) -> str:
        return str(day.year)

    @model_serializer(mode="plain")
    def _as_text(self) -> str:
        return "shown"


class Point(NamedTuple):
    x: int
    label: str = ""


class Movie(TypedDict):
    title: str
    year: int


@dataclasses.dataclass
class Plain:
    a: int
    inner: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int
    when: date | None = None


@pydantic.dataclasses.dataclass
class Checked:
    a: int
    shape: Shape = dataclasses.field(default_factory=Shape)


class Text(str):
    """A subclass of `str`."""


class Opaque:
    """A class that only the serializer of its field can write."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


WrittenByItsField = Annotated[
    Opaque,
    BeforeValidator(lambda value: Opaque(value) if isinstance(value, str) else value),
    PlainSerializer(lambda value: value.text),
]


class Inner(Event):
    x: int


texts = st.text(st.characters(codec="utf-8"), max_size=8)
integers = st.integers(-(2**70), 2**70)
floats = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False) | st.sampled_from([Decimal("Infinity"), Decimal("-Infinity")])
offsets = st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
zones = st.none() | st.just(UTC) | offsets | st.sampled_from(["Europe/Berlin", "Asia/Kolkata"]).map(ZoneInfo)
dates_and_times = st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1), timezones=zones)
shapes = st.builds(Shape, name=texts) | st.builds(Circle, name=texts, radius=floats)
json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
trees = st.recursive(
    st.builds(Tree, value=integers, parent=st.none() | shapes),
    lambda inner: st.builds(Tree, value=integers, children=st.lists(inner, max_size=2)),
    max_leaves=4,
)
anything = st.one_of(
    json_values,
    st.binary(max_size=6),
    decimals,
    dates_and_times,
    shapes,
    st.sampled_from([*Colour, *Word, *Number, Right.READ | Right.WRITE]),
    st.builds(Plain, a=integers, inner=shapes),
    st.tuples(integers, shapes),
    st.sets(integers, max_size=3),
    st.dictionaries(integers | texts | st.tuples(integers), shapes, max_size=3),
    st.builds(Inner, x=integers, note=st.tuples(texts)),
)

#: Every kind: its type, and a strategy for its values.
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (int, integers),
    "float": (float, floats),
    "str": (str, texts),
    "bool": (bool, st.booleans()),
    "None": (None, st.none()),
    "bytes": (bytes, st.binary(max_size=8)),
    "bytearray": (bytearray, st.binary(max_size=8).map(bytearray)),
    "date": (date, st.dates()),
    "datetime": (datetime, dates_and_times),
    "time": (time, st.times() | st.builds(time, tzinfo=offsets)),
    "timedelta": (timedelta, st.timedeltas()),
    "Decimal": (Annotated[Decimal, Field(allow_inf_nan=True)], decimals),
    "UUID": (uuid.UUID, st.uuids()),
    "Fraction": (Fraction, st.fractions()),
    "complex": (complex, st.complex_numbers(allow_nan=False, allow_infinity=False)),
    "Path": (pathlib.Path, st.sampled_from(["/", "a/b", "."]).map(pathlib.Path)),
    "PurePosixPath": (pathlib.PurePosixPath, st.just(pathlib.PurePosixPath("/x"))),
    "IPv4Address": (ipaddress.IPv4Address, st.ip_addresses(v=4)),
    "IPv6Network": (ipaddress.IPv6Network, st.ip_addresses(v=6).map(ipaddress.IPv6Network)),
    "Pattern": (re.Pattern[str], st.sampled_from([re.compile("a+"), re.compile("b", re.I)])),
    "Enum": (Colour, st.sampled_from(Colour)),
    "StrEnum": (Word, st.sampled_from(Word)),
    "IntEnum": (Number, st.sampled_from(Number)),
    "Flag": (Right, st.sampled_from([*Right, Right.READ | Right.WRITE, Right(0)])),
    "Literal": (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    "Optional": (int | None, st.none() | integers),
    "union of scalars": (int | str | float, integers | texts | floats),
    "union of look-alikes": (Cat | Dog, st.builds(Cat, name=texts) | st.builds(Dog, name=texts)),
    "union with dates": (date | str | datetime, st.dates() | texts | st.just("2024-01-01") | st.datetimes()),
    "discriminated union": (
        Annotated[Loud | Quiet, Field(discriminator="kind")],
        st.builds(Loud, volume=integers) | st.builds(Quiet),
    ),
    "list": (list[int], st.lists(integers, max_size=4)),
    "bare list": (list, st.lists(anything, max_size=3)),
    "dict": (dict[str, date], st.dictionaries(texts, st.dates(), max_size=3)),
    "bare dict": (dict, st.dictionaries(texts | integers, anything, max_size=3)),
    "int keys": (dict[int, str], st.dictionaries(integers, texts, max_size=3)),
    "tuple keys": (
        dict[tuple[int, str], float],
        st.dictionaries(st.tuples(integers, texts), floats, max_size=3),
    ),
    "enum keys": (dict[Word, int], st.dictionaries(st.sampled_from(Word), integers)),
    "mixed keys": (dict[int | str, int], st.dictionaries(st.sampled_from([1, "1", 2, "2"]), integers)),
    "tuple": (tuple[int, str], st.tuples(integers, texts)),
    "tuple of any length": (tuple[date, ...], st.lists(st.dates(), max_size=3).map(tuple)),
    "set": (set[int], st.sets(integers, max_size=4)),
    "frozenset": (frozenset[str], st.frozensets(texts, max_size=4)),
    "set of enums": (set[Colour], st.sets(st.sampled_from(Colour))),
    "deque": (deque[int], st.lists(integers, max_size=3).map(lambda items: deque(items, 5))),
    "Sequence": (Sequence[int], st.lists(integers, max_size=3) | st.tuples(integers)),
    "Mapping": (Mapping[str, int], st.dictionaries(texts, integers, max_size=3)),
    "OrderedDict": (OrderedDict[str, int], st.dictionaries(texts, integers, max_size=3).map(OrderedDict)),
    "Counter": (Counter[str], st.lists(texts, max_size=5).map(Counter)),
    "defaultdict": (
        defaultdict[str, list[int]],
        st.dictionaries(texts, st.lists(integers), max_size=2).map(lambda found: defaultdict(list, found)),
    ),
    "NamedTuple": (Point, st.builds(Point, integers, texts)),
    "TypedDict": (Movie, st.fixed_dictionaries({"title": texts, "year": integers})),
    "dataclass": (Plain, st.builds(Plain, a=integers, inner=anything)),
    "frozen dataclass": (Frozen, st.builds(Frozen, a=integers, when=st.none() | st.dates())),
    "pydantic dataclass": (Checked, st.builds(Checked, a=integers, shape=shapes)),
    "model": (Shape, st.builds(Shape, name=texts)),
    "subclass of a model": (Shape, shapes),
    "recursive model": (Tree, trees),
    "abstract model": (SerializeAsAny[Abstract], st.builds(Concrete, words=texts)),
    "generic model": (Box[Shape], st.builds(Box[Shape], content=shapes)),
    "root model": (Names, st.lists(texts, max_size=3).map(Names)),
    "root model of models": (Shapes, st.dictionaries(texts, shapes, max_size=2).map(Shapes)),
    "model with extra": (Open, st.builds(Open, a=integers, more=anything)),
    "strict model": (Strictly, st.builds(Strictly, when=dates_and_times, raw=st.binary(max_size=4))),
    "aliases": (Aliased, st.builds(Aliased, orderId=integers)),
    "computed field": (Computing, st.builds(Computing, a=integers)),
    "excluded field": (Excluding, st.builds(Excluding, hidden=texts)),
    "validator": (Doubling, st.builds(Doubling, n=integers)),
    "model validator": (Whole, st.builds(Whole, n=integers)),
    "model_post_init": (Counting, st.builds(Counting, seen=st.lists(integers, max_size=2))),
    "constructor": (Plus, integers.map(Plus)),
    "serializers": (Showing, st.builds(Showing, day=st.dates(), n=integers)),
    "event": (Event, st.builds(Inner, x=integers, note=st.tuples(texts))),
    "Any": (Any, anything),
    "object": (object, anything),
    "AnyUrl": (AnyUrl, st.sampled_from(["https://a.example/x?y=1#z", "ftp://b"]).map(AnyUrl)),
    "HttpUrl": (HttpUrl, st.just(HttpUrl("http://a.example:81/ü"))),
    "PostgresDsn": (PostgresDsn, st.just(PostgresDsn("postgres://u:p@a,b:5/d"))),
    "ByteSize": (ByteSize, st.integers(0, 2**60).map(ByteSize)),
    "Json": (Json[list[int]], st.lists(integers, max_size=3)),
    "constrained": (Annotated[int, Field(gt=0)], st.integers(1, 2**60)),
    "strict": (Annotated[int, Strict()], integers),
    "lower case": (Annotated[str, AfterValidator(str.lower)], texts.map(str.lower)),
    "type": (type[Shape], st.sampled_from([Shape, Circle])),
    "text of its own class": (Any, texts.map(Text)),
    "empty secret": (SecretStr, st.just(SecretStr(""))),
    "written by its field": (WrittenByItsField, texts.map(Opaque)),
    "list written by its field": (list[WrittenByItsField], st.lists(texts.map(Opaque), max_size=3)),
}
