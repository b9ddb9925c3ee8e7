"""Exceptions that cross processes: the same class where possible, and never without their message."""

from __future__ import annotations

import copy
import pickle

import pytest
from pydantic import BaseModel, ValidationError

from umbel.tasks.events.event import UnreconstructedException, WorkflowFailedEvent
from umbel.tasks.events.exceptions import decode_exception, encode_exception


class Numbered(BaseModel):
    number: int


class Declined(Exception):
    """One argument, kept as it is."""


class WithCode(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class PlainPair(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"pair {self.code}"


class Prefixed(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(f"declined: {text}")


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Numbered(number="x")
    return caught.value


def _round_trip(exc: BaseException) -> Exception:
    encoded = encode_exception(exc)
    failed = WorkflowFailedEvent.model_validate({"step_name": "s", "exception": encoded})
    return WorkflowFailedEvent.model_validate_json(failed.model_dump_json()).exception


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("boom"),
        ValueError(),
        ValueError(1, "two"),
        ValueError(""),
        KeyError("x"),
        KeyError("it's"),
        KeyError(7),
        Declined("no"),
        PlainPair(4, "x"),
        FileNotFoundError(2, "No such file or directory", "/tmp/x"),
        OSError(5, "Input/output error"),
        TimeoutError(),
        StopIteration("x"),
    ],
)
def test_an_exception_comes_back_as_itself(exc: Exception) -> None:
    again = _round_trip(exc)

    assert type(again) is type(exc)
    assert str(again) == str(exc)
    assert again.args == exc.args


def test_an_operating_system_error_keeps_number_and_file() -> None:
    again = _round_trip(FileNotFoundError(2, "No such file or directory", "/tmp/x"))

    assert isinstance(again, FileNotFoundError)
    assert (again.errno, again.filename) == (2, "/tmp/x")


@pytest.mark.parametrize(
    "exc",
    [
        WithCode(4, "x"),
        Prefixed("x"),
        KeywordOnly(code=4),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError("a")]),
        KeyboardInterrupt("x"),
        _validation_error(),
    ],
)
def test_an_exception_that_would_lose_its_message_is_replaced_by_one_that_keeps_it(exc: BaseException) -> None:
    again = _round_trip(exc)

    assert isinstance(again, UnreconstructedException)
    assert str(again) == str(exc)
    assert again.original_type == f"{type(exc).__module__}.{type(exc).__qualname__}"


def test_an_exception_whose_class_is_not_loaded_is_replaced_and_may_be_rebuilt_later() -> None:
    again = decode_exception({"exception_type": "gone.module.Lost", "exception_message": "m"})

    assert isinstance(again, UnreconstructedException)
    assert again.original_type == "gone.module.Lost"
    assert repr(again) == "UnreconstructedException('m', original_type='gone.module.Lost')"
    assert encode_exception(again) == {"exception_type": "gone.module.Lost", "exception_message": "m"}
    assert copy.copy(again).original_type == pickle.loads(pickle.dumps(again)).original_type == "gone.module.Lost"


@pytest.mark.parametrize("name", ["os.system", "builtins.int", "builtins.SystemExit", "", "x", "builtins", "a..b"])
def test_a_name_that_is_no_exception_class_is_never_called(name: str) -> None:
    again = decode_exception({"exception_type": name, "exception_message": "true"})

    assert isinstance(again, UnreconstructedException)


def test_an_exception_defined_in_a_function_is_rebuilt_in_the_same_process() -> None:
    class Local(Exception):
        pass

    assert type(_round_trip(Local("x"))) is Local


def test_a_broken_exception_is_still_recorded() -> None:
    again = _round_trip(Unreadable("x"))

    assert isinstance(again, UnreconstructedException)
    assert "Unreadable whose text cannot be read" in str(again)
    assert isinstance(decode_exception({}), UnreconstructedException)


def test_messages_that_json_cannot_carry_are_made_fit() -> None:
    assert str(_round_trip(ValueError("half \ud800 pair"))) == "half \\ud800 pair"
    assert len(str(_round_trip(ValueError("x" * 1_000_000)))) < 70_000
    assert encode_exception(ValueError(float("nan"))) == {
        "exception_type": "builtins.ValueError",
        "exception_message": "nan",
    }


def test_notes_and_causes_travel_with_an_exception() -> None:
    exc = ValueError("boom")
    exc.add_note("while charging")
    exc.__cause__ = WithCode(4, "card")
    exc.__cause__.__cause__ = ConnectionError("reset")

    again = _round_trip(exc)

    assert again.__notes__ == ["while charging"]
    assert isinstance(again.__cause__, UnreconstructedException)
    assert str(again.__cause__) == "4: card"
    assert type(again.__cause__.__cause__) is ConnectionError


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert str(_round_trip(first)) == "a"
