"""The output of `umbel graph`. The representation behind it is tested in `test_representation.py`."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from umbel import Event, HumanResponseEvent, StartEvent, StepFailedEvent, StopEvent, Workflow, catch_error, step
from umbel.workers.cli.checks.graph import as_html, as_json, as_mermaid, as_text


class Line(Event):
    pass


class Both(Event):
    pass


class Question(Event):
    pass


class Answer(HumanResponseEvent):
    pass


class Shop(Workflow):
    """A fan-out gathered again, a join, somebody outside, and a step whose failures are caught."""

    @step
    def end(self, ev: Both) -> StopEvent: ...

    @step
    def gather(self, evs: list[Line]) -> Both: ...

    @step
    def ask(self, ev: StartEvent) -> Question | None: ...

    @step
    def split(self, ev: StartEvent) -> list[Line]: ...

    @step
    def pair(self, both: Both, answer: Answer) -> StopEvent: ...

    @catch_error(for_steps=["split"])
    def rescue(self, ev: StepFailedEvent) -> StopEvent: ...


def test_text_shows_steps_in_the_order_in_which_a_run_meets_them() -> None:
    assert as_text(Shop(workflow_name="shop.Shop")).splitlines() == [
        "shop.Shop",
        "  ask     StartEvent -> Question",
        "  split   StartEvent -> list[Line]",
        "  gather  list[Line] -> Both",
        "  rescue  StepFailedEvent -> StopEvent   (catches failures of split)",
        "  end     Both -> StopEvent",
        "  pair    Both & Answer -> StopEvent",
    ]


def test_mermaid_draws_each_kind_of_edge() -> None:
    chart = as_mermaid(Shop()).splitlines()

    assert chart[0] == "flowchart TD"
    assert '    step_end["end"]:::stepStyle' in chart  # a bare `end` is a keyword of mermaid
    assert "    step_split ==> event_Line" in chart
    assert "    event_Line ==> step_gather" in chart
    assert "    step_split -.-> event_StepFailedEvent" in chart
    assert "    external_external_step --> event_Answer" in chart


def test_json_holds_the_limits_of_each_step_too() -> None:
    found = as_json(Shop(workflow_name="shop.Shop"))

    assert (found["workflow"], found["name"]) == ("shop.Shop", "Shop")
    assert {"source": "split", "target": "Line", "label": None, "kind": "fan-out"} in found["edges"]
    assert found["steps"][0]["num_workers"] == 4


def test_html_is_a_whole_page() -> None:
    assert as_html(Shop()).startswith("<!DOCTYPE html>")
