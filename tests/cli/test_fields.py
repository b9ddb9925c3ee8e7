"""`key=value …` and `--input` as fields."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import click
import pytest
from pydantic import Field

from umbel import Event
from umbel.tasks.values.described_fields import described, model_of
from umbel.workers.cli.fields import read_fields


def test_a_value_is_json_if_it_can_be_read_as_such_and_text_otherwise() -> None:
    assert read_fields(
        [
            "n=3",
            "x=1.5",
            "on=true",
            "off=False",
            "none=null",
            "items=[1, 2]",
            "o={}",
            's="3"',
            "t=a b",
            "url=a=b",
            "e=",
        ],
        None,
    ) == {
        "n": 3,
        "x": 1.5,
        "on": True,
        "off": "False",
        "none": None,
        "items": [1, 2],
        "o": {},
        "s": "3",
        "t": "a b",
        "url": "a=b",
        "e": "",
    }


def test_what_python_alone_takes_for_json_is_text() -> None:
    assert read_fields(["a=NaN", "b=-Infinity"], None) == {"a": "NaN", "b": "-Infinity"}


def test_input_and_pairs_add_up(tmp_path: Path) -> None:
    (tmp_path / "fields.json").write_text('{"a": 1}')

    assert read_fields(["b=2"], '{"a": 1}') == read_fields(["b=2"], f"@{tmp_path}/fields.json") == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("pairs", "given", "text"),
    [
        (["a"], None, "Expected KEY=VALUE, got 'a'"),
        (["=1"], None, "Expected KEY=VALUE"),
        (["a=1", "a=2"], None, "'a' is given twice"),
        (["a=1"], '{"a": 1}', "'a' is given in both --input and KEY=VALUE"),
        ([], "{", "--input is not valid JSON"),
        ([], "[1]", "--input: expected a JSON object of fields, got list"),
        ([], "@/nowhere.json", "/nowhere.json is not valid JSON: .*No such file"),
    ],
)
def test_fields_that_cannot_be_read_are_an_error_of_usage(pairs: list[str], given: str | None, text: str) -> None:
    with pytest.raises(click.UsageError, match=text):
        read_fields(pairs, given)


class Colour(Enum):
    RED = "red"


class Answer(Event):
    by: str
    approved: bool
    note: str | None = None
    price: Annotated[Decimal, "in euros"] = Field(default=Decimal(0), alias="cost")
    old: Union[str, None] = None  # noqa: UP007 - as many write it
    kind: Literal["a", 1] = "a"
    colour: Colour = Colour.RED
    count: int | str = 0
    when: datetime | None = None
    anything: Any = None


def test_the_fields_of_an_event_are_known_where_its_class_is_not_loaded() -> None:
    known = model_of(json.loads(json.dumps(described(Answer))), "Answer", "elsewhere", Event)

    assert {name: field.annotation for name, field in known.model_fields.items()} == {
        "by": str,
        "approved": bool,
        "note": str | None,
        "cost": Decimal,
        "old": str | None,
        "kind": Literal["a", 1],
        "colour": Literal["red"],
        "count": int | str,
        "when": Any,
        "anything": Any,
    }
    assert [name for name, field in known.model_fields.items() if field.is_required()] == ["by", "approved"]
    assert read_fields(["by=3", "cost=1.10"], None, known) == {"by": "3", "cost": "1.10"}
    assert known(by="Ada", approved="yes").note is None
    with pytest.raises(click.UsageError, match="Did you mean 'approved'"):
        read_fields(["aproved=true"], None, known)


def test_what_a_later_release_describes_is_anything() -> None:
    assert (
        model_of({"a": {"type": ["date"], "required": True}}, "A", "elsewhere", Event).model_fields["a"].annotation
        is Any
    )
