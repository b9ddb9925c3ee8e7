"""Exceptions that cross processes: the same class if possible, and always with their message."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import urllib.error
from datetime import datetime
from email.message import Message
from io import BytesIO
from typing import cast

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from umbel.tasks.events.event import UnreconstructedException, WorkflowFailedEvent
from umbel.tasks.events.exceptions import decode_exception, encode_exception


class Numbered(BaseModel):
    number: int


class Declined(Exception):
    """One argument, stored unchanged."""


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


def _attribute_error() -> Exception:
    try:
        return cast(Exception, Numbered(number=1).nope)  # type: ignore[attr-defined]
    except AttributeError as error:
        return error


def _import_error() -> Exception:
    return ImportError("no module", name="x.y", path="/x/y.py")


class Slow(TimeoutError):
    def __init__(self, seconds: float, *, where: str) -> None:
        super().__init__(f"slow at {where}")
        self.seconds, self.where = seconds, where


class Unwritable(Exception):
    """Like the errors of many clients, it refers to something that cannot be sent."""

    def __init__(self, text: str, *, response: object, status: int) -> None:
        super().__init__(text)
        self.response, self.status = response, status


class Fixed(Exception):
    def __init__(self) -> None:
        super().__init__("fixed text")


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, text: str, members: list[Exception], code: int) -> OwnGroup:  # type: ignore[misc]
        made = super().__new__(cls, text, members)
        made.code = code
        return made

    code: int


def _failing_json() -> Exception:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads('{"a": ')
    return caught.value


@pytest.mark.parametrize(
    "exc",
    [
        WithCode(4, "x"),
        Prefixed("x"),
        KeywordOnly(code=4),
        Fixed(),
        Slow(2.5, where="here"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        UnicodeEncodeError("ascii", "ü", 0, 1, "bad"),
        ValueError((1, 2), {3: datetime(2026, 1, 1)}),
        StopIteration((1, "x")),
        _failing_json(),
        _attribute_error(),
        _import_error(),
        SyntaxError("bad", ("f.py", 1, 2, "text", 1, 3)),
        asyncio.IncompleteReadError(b"x", 5),
        subprocess.CalledProcessError(3, ["ls", "-l"], b"out"),
        urllib.error.URLError("no route"),
        UnboundLocalError("x", 1),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_exception_with_a_constructor_of_any_shape_comes_back_with_its_attributes(exc: Exception) -> None:
    again = _round_trip(exc)

    assert type(again) is type(exc)
    assert (str(again), again.args) == (str(exc), exc.args)
    assert vars(again) == vars(exc)
    for name in ("errno", "filename", "name", "path", "msg", "lineno", "object", "reason", "value", "encoding"):
        assert getattr(again, name, None) == getattr(exc, name, None)


def test_attributes_that_cannot_be_sent_stay_behind_and_the_others_come() -> None:
    again = _round_trip(Unwritable("slow down", response=object(), status=429))

    assert isinstance(again, Unwritable)
    assert (str(again), vars(again)) == ("slow down", {"status": 429})


def test_a_group_comes_back_with_its_members() -> None:
    group = ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [WithCode(4, "x")]), KeyError("k")])
    group.add_note("a note")

    again = _round_trip(group)

    assert type(again) is ExceptionGroup
    assert (again.message, again.__notes__) == ("several", ["a note"])
    assert [type(member) for member in again.exceptions] == [ValueError, ExceptionGroup, KeyError]
    inner = again.exceptions[1].exceptions[0]  # type: ignore[union-attr]
    assert isinstance(inner, WithCode)
    assert inner.code == 4
    own = _round_trip(OwnGroup("own", [ValueError("a")], 7))
    assert isinstance(own, OwnGroup)
    assert own.code == 7
    assert str(own.exceptions[0]) == "a"


def test_a_validation_error_comes_back_with_its_errors() -> None:
    class Checked(BaseModel):
        number: int
        name: str
        small: int = Field(lt=3)
        own: int = 1

        @field_validator("own")
        @classmethod
        def _refuse(cls, own: int) -> int:
            raise PydanticCustomError("mine", "not {own}", {"own": own}) if own == 2 else ValueError("never")

    for given in ({"number": "x", "small": 4, "own": 2}, {"number": 1, "name": "a", "small": 1, "own": 3}):
        with pytest.raises(ValidationError) as caught:
            Checked(**given)  # type: ignore[arg-type]

        again = _round_trip(caught.value)

        assert isinstance(again, ValidationError)
        assert str(again) == str(caught.value)
        without = {"include_context": False}
        assert again.errors(**without) == caught.value.errors(**without)  # type: ignore[arg-type]


@pytest.mark.parametrize("exc", [KeyboardInterrupt("x"), Unreadable("x")])
def test_an_exception_that_would_lose_its_message_is_replaced_by_one_that_keeps_it(exc: BaseException) -> None:
    again = _round_trip(exc)

    assert isinstance(again, UnreconstructedException)
    assert again.original_type == f"{type(exc).__module__}.{type(exc).__qualname__}"


def test_a_stand_in_becomes_the_exception_again_where_its_class_is_loaded() -> None:
    encoded = encode_exception(WithCode(4, "x"))
    stand_in = decode_exception({**encoded, "exception_type": "gone.module.WithCode"})
    assert isinstance(stand_in, UnreconstructedException)

    again = decode_exception({**encode_exception(stand_in), "exception_type": encoded["exception_type"]})

    assert isinstance(again, WithCode)
    assert again.code == 4


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
    assert encode_exception(ValueError("half \ud800 pair"))["exception_message"] == "half \\ud800 pair"
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
    assert isinstance(again.__cause__, WithCode)
    assert (str(again.__cause__), again.__cause__.code) == ("4: card", 4)
    assert type(again.__cause__.__cause__) is ConnectionError


def test_what_an_exception_was_raised_in_spite_of_travels_with_it() -> None:
    try:
        try:
            raise ValueError("first")
        except ValueError:
            raise KeyError("second")  # noqa: B904
    except KeyError as raised:
        again = _round_trip(raised)

    assert (repr(again.__context__), again.__cause__) == ("ValueError('first')", None)
    assert _round_trip(again).__context__ is not None


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("a\udc80b"),
        UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "surrogates not allowed"),
        FileNotFoundError(2, "No such file", "caf\udce9"),
    ],
)
def test_text_that_utf_8_cannot_carry_comes_back(exc: Exception) -> None:
    again = _round_trip(exc)

    assert (type(again), again.args, str(again)) == (type(exc), exc.args, str(exc))


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert str(_round_trip(first)) == "a"


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class Wrapping(Exception):
    """Has the attributes of what it wraps."""

    def __init__(self, wrapped: object, text: str) -> None:
        super().__init__(text)
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["wrapped"], name)


def test_attributes_in_slots_are_sent() -> None:
    again = decode_exception(encode_exception(Slotted(7)))

    assert isinstance(again, Slotted)
    assert again.code == 7


def test_an_exception_that_asks_for_what_was_left_out_says_so_as_others_do() -> None:
    answer = urllib.error.HTTPError("https://example.org", 404, "gone", Message(), BytesIO(b"x"))

    for sent, about in ((Wrapping(object(), "lost"), None), (answer, 404)):
        again = decode_exception(encode_exception(sent))
        assert type(again) is type(sent)
        assert getattr(again, "code", None) == about
        assert getattr(again, "nothing", "absent") == "absent"
        assert str(again) == str(sent)


def test_an_exception_that_no_attribute_can_be_asked_of_is_not_rebuilt() -> None:
    stored = encode_exception(Wrapping(object(), "lost"))
    del stored["exception_state"]["left_out"]  # as an earlier release stored it
    del stored["exception_state"]["args"]

    again = decode_exception(stored)

    assert isinstance(again, UnreconstructedException)
    assert str(again) == "lost"
