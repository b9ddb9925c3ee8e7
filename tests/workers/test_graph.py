"""Pictures of plans."""

from __future__ import annotations

from umbel.orchestration.envelope import START, STEP_FAILED, STOP
from umbel.orchestration.plan import Plan, StepPlan
from umbel.workers.graph import as_json, as_mermaid, as_text


def step(name: str, accepts: str, returns: str = "", **more: object) -> StepPlan:
    fields = {"accepts": tuple(accepts.split()), "returns": tuple(returns.split()), **more}
    return StepPlan(name=name, task=f"Shop.{name}", **fields)  # type: ignore[arg-type]


#: A fan-out gathered again, a join, somebody outside, and a step whose failures are caught. `end` is a word of mermaid.
PLAN = Plan(
    workflow="shop.Shop",
    start_event=START,
    stop_events=(STOP,),
    steps=(
        step("end", "shop.Both", STOP),
        step("gather", "shop.Line", "shop.Both", kind="collect"),
        step("ask", START, "shop.Question"),
        step("split", START, fans_out=("shop.Line",)),
        step("pair", "shop.Both shop.Answer", STOP, kind="join"),
        step("rescue", STEP_FAILED, STOP, recovers=("split",)),
    ),
)


def test_text_shows_steps_in_the_order_in_which_a_run_meets_them() -> None:
    assert as_text(PLAN).splitlines() == [
        "shop.Shop",
        "  ask     StartEvent -> Question",
        "  split   StartEvent -> list[Line]",
        "  gather  list[Line] -> Both",
        "  rescue  StepFailedEvent -> StopEvent   (catches failures of split)",
        "  pair    Both & Answer -> StopEvent",
        "  end     Both -> StopEvent",
    ]


def test_mermaid_draws_each_kind_of_node_and_edge() -> None:
    assert as_mermaid(PLAN).splitlines() == [
        "flowchart TD",
        '    n0(["start"])',
        '    n1["end"]',
        '    n2["gather"]',
        '    n3["ask"]',
        '    n4["split"]',
        '    n5["pair"]',
        '    n6[/"rescue"/]',
        '    n7{{"outside"}}',
        '    n8(["stop"])',
        '    n0 -->|"StartEvent"| n3',
        '    n0 -->|"StartEvent"| n4',
        '    n1 -->|"StopEvent"| n8',
        '    n2 -->|"Both"| n1',
        '    n2 -->|"Both"| n5',
        '    n3 -->|"Question"| n7',
        '    n4 ==>|"list[Line]"| n2',
        '    n5 -->|"StopEvent"| n8',
        '    n6 -->|"StopEvent"| n8',
        '    n7 -->|"Answer"| n5',
        '    n4 -.->|"StepFailedEvent"| n6',
    ]


def test_json_holds_the_limits_of_each_step_too() -> None:
    found = as_json(PLAN)

    assert found["workflow"] == "shop.Shop"
    assert {"source": "split", "target": "gather", "event": "shop.Line", "kind": "fan-out"} in found["edges"]
    assert found["steps"][0]["num_workers"] == 4
