"""The one-sentence description of a run's end."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from umbel import Event
from umbel.orchestration.inspection.endings import exception_text
from umbel.tasks.events.exceptions import encode_exception


class Drafted(Event):
    text: str


def test_an_exception_without_arguments_is_shown_with_its_message() -> None:
    with pytest.raises(ValidationError) as caught:
        Drafted()  # type: ignore[call-arg]

    shown = exception_text(encode_exception(caught.value))
    assert shown.startswith("ValidationError(")
    assert "Field required" in shown


@pytest.mark.parametrize("error", [ValueError("limit reached"), KeyError("a", 1), RuntimeError()], ids=repr)
def test_any_other_exception_is_shown_as_python_shows_it(error: Exception) -> None:
    assert exception_text(encode_exception(error)) == repr(error)
