"""Nothing is imported because a payload names it: every function that reads stored data is tested with a trap.

Events by name are also in `tests/events/test_codec_names.py`, exceptions in `tests/events/test_remote_exceptions.py`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from umbel import Context, Settings, StartEvent, StopEvent, Workflow, step
from umbel.context import JsonSerializer
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.tagged_json import TAG
from umbel.tasks.events.codec import EventRegistry, decode_event
from umbel.tasks.events.exceptions import UnreconstructedException, decode_exception
from umbel.tasks.values.json_values import from_json_value

TRAP = "umbel_trap_module"


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a trace when it is imported; fails if it was imported."""
    trace = tmp_path / "sprung"
    (tmp_path / f"{TRAP}.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Evil: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield trace
    assert TRAP not in sys.modules
    assert not trace.exists()


class Flow(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


class Inner(BaseModel):
    n: int


def tagged(name: str, value: object) -> dict[str, object]:
    """Return a value as the state and events store it: with the name of its class."""
    return {TAG: True, "value": value, "qualified_name": name}


def snapshot(**changes: object) -> dict[str, object]:
    """Return a snapshot as another program may have made it, with the trap in every place that names a class."""
    evil = f"{TRAP}.Evil"
    event = json.dumps({"__is_pydantic": True, "value": {}, "qualified_name": evil})
    state = {"state_type": "Evil", "state_module": TRAP, "state_data": {"_data": {"x": event}}}
    workers = {"go": {"queue": [event], "in_progress": [event], "collected_events": {"a": {evil: [event]}}}}
    return {"version": 1, "is_running": True, "state": state, "workers": workers, "broker_log": [event]} | changes


DOORS: dict[str, Callable[[], object]] = {
    "an event's type": lambda: decode_event(Envelope(f"{TRAP}.Evil", (), b"{}"), EventRegistry.of()),
    "an event's parents": lambda: decode_event(Envelope("gone.Event", (f"{TRAP}.Evil",), b"{}"), EventRegistry.of()),
    "an event that stands in an event": lambda: decode_event(
        Envelope("umbel.Event", (), json.dumps({"_data": {"x": tagged(f"{TRAP}.Evil", {})}}).encode()),
        EventRegistry.of(),
    ),
    "a value in the state": lambda: from_json_value(tagged(f"{TRAP}.Evil", {"n": 1})),
    "the reference's mark of a model": lambda: JsonSerializer().deserialize(
        json.dumps({"__is_pydantic": True, "value": {"n": 1}, "qualified_name": f"{TRAP}.Evil"})
    ),
    "the reference's mark of a component": lambda: JsonSerializer().deserialize(
        json.dumps({"__is_component": True, "value": {"n": 1}, "qualified_name": f"{TRAP}.Evil"})
    ),
    "a snapshot": lambda: Context.from_dict(Flow(timeout=None), dict(snapshot())),
    "an older snapshot": lambda: Context.from_dict(Flow(timeout=None), dict(snapshot(version=0))),
}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_imported_because_it_is_named_as(door: str) -> None:
    with contextlib.suppress(Exception):  # most raise; what matters here is that they import nothing
        DOORS[door]()


@pytest.mark.parametrize("name", [f"{TRAP}.Evil", f"{TRAP}", f"os.{TRAP}", "os.system", "builtins.eval", "sys.exit"])
def test_an_exception_that_names_no_loaded_exception_class_is_shown_as_plain_data(name: str) -> None:
    decoded = decode_exception({"exception_type": name, "exception_message": "x", "exception_args": ["echo sprung"]})

    assert type(decoded) is UnreconstructedException
    assert decoded.original_type == name


def test_a_class_that_is_loaded_but_no_model_is_not_made_of_a_payload() -> None:
    command = {"args": ["touch", "/nowhere/sprung"]}

    assert from_json_value(tagged("subprocess.Popen", command)) == command


def test_a_loaded_model_is() -> None:
    """Shows that the cases above are not refused for another reason."""
    assert from_json_value(tagged(f"{__name__}.Inner", {"n": 1})) == Inner(n=1)


def test_settings_take_no_field_that_is_not_theirs() -> None:
    with pytest.raises(Exception, match="extra"):
        Settings(__class__="x")
