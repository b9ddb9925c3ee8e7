"""Steps whose event parameters change during a run: each gets the event of its class, or the work waits."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from support.eventually import eventually
from support.processes.driving import Deploy
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.plan import Inputs, Plan, StepPlan

CODE = """
from umbel import Event, StartEvent, StopEvent, Workflow, step


class Weight(Event):
    n: int


class Price(Event):
    n: int


class Colour(Event):
    n: int = 0


class Pair(Workflow):
    @step
    async def weigh(self, ev: StartEvent) -> Weight:
        return Weight(n=1)

    @step
    async def value(self, ev: StartEvent) -> Price:
        return Price(n=2)

    @step
    async def paint(self, ev: StartEvent) -> Colour:
        return Colour()

    @step(queue="later")
    async def add(self, weight: Weight, price: Price) -> StopEvent:
        return StopEvent(result=f"{weight!r} {price!r}")

    @step
    async def see(self, ev: Colour) -> StopEvent | None:
        return None


class Many(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Weight]:
        return [Weight(n=1)]

    @step(queue="later")
    async def add(self, weights: list[Weight]) -> StopEvent:
        return StopEvent(result=repr(weights))


class One(Workflow):
    @step
    async def weigh(self, ev: StartEvent) -> Weight | Price:
        return Weight(n=1)

    @step(queue="later")
    async def add(self, ev: Weight) -> StopEvent:
        return StopEvent(result=repr(ev))

    @step
    async def see(self, ev: Price) -> StopEvent | None:
        return None
"""

_BOTH = "weight: Weight, price: Price"


@pytest.fixture
def parcels(tmp_path: Path) -> Iterator[Path]:
    before = sys.modules.pop("parcels", None)
    yield tmp_path
    sys.modules.pop("parcels", None)
    if before is not None:
        sys.modules["parcels"] = before


def written(folder: Path, name: str, *changes: tuple[str, str]) -> str:
    """Write a version of the code; return the worker's target."""
    path = folder / name / "parcels.py"
    path.parent.mkdir()
    text = CODE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return str(path)


def loaded(target: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("parcels", target)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["parcels"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_parameter_gets_the_event_of_its_class_when_a_deploy_has_swapped_them(
    deploy: Deploy, parcels: Path
) -> None:
    deployment = deploy()
    old, new = written(parcels, "old"), written(parcels, "new", (_BOTH, "price: Price, weight: Weight"))
    first = deployment.worker("first", old, pool="solo", queues="umbel").wait_ready()
    handler = deployment.start(loaded(old).Pair)
    eventually(lambda: len(deployment.executions(handler.run_id)) == 4, "all but the last step have ended")
    first.kill_group()

    deployment.worker("changed", new, pool="solo", queues="umbel,later").wait_ready()

    assert handler.result(40) == "Weight(n=1) Price(n=2)"


@pytest.mark.parametrize(
    ("workflow", "executions", "change", "says", "result"),
    [
        pytest.param(
            "Pair",
            4,
            [(_BOTH, f"{_BOTH}, colour: Colour")],
            "its events were made for add(Weight, Price), but here it is add(Weight, Price, Colour)",
            "Weight(n=1) Price(n=2)",
            id="a join has one parameter more",
        ),
        pytest.param(
            "Many",
            1,
            [("weights: list[Weight]", "weights: Weight")],
            "its events were made for add(list[Weight]), but here it is add(Weight)",
            "[Weight(n=1)]",
            id="a list has become a single event",
        ),
        pytest.param(
            "One",
            1,
            [
                ("-> Weight | Price", "-> list[Weight] | Price"),
                ("add(self, ev: Weight)", "add(self, ev: list[Weight])"),
            ],
            "its events were made for add(Weight), but here it is add(list[Weight])",
            "Weight(n=1)",
            id="a single event has become a list",
        ),
        pytest.param(
            "One",
            1,
            [("-> Weight | Price", "-> Price"), ("add(self, ev: Weight)", "add(self, ev: Price)")],
            "its events were made for add(Weight), but here it is add(Price)",
            "Weight(n=1)",
            id="it takes another event",
        ),
    ],
)
def test_work_whose_step_takes_other_events_in_the_new_code_waits_for_code_that_takes_them(
    deploy: Deploy,
    parcels: Path,
    workflow: str,
    executions: int,
    change: Sequence[tuple[str, str]],
    says: str,
    result: str,
) -> None:
    deployment = deploy()
    old, new = written(parcels, "old"), written(parcels, "new", *change)
    first = deployment.worker("first", old, pool="solo", queues="umbel").wait_ready()
    handler = deployment.start(getattr(loaded(old), workflow))
    eventually(lambda: len(deployment.executions(handler.run_id)) == executions, "all but the last step have ended")
    first.kill_group()

    changed = deployment.worker("changed", new, pool="solo", queues="umbel,later").wait_ready()
    eventually(lambda: "parked" in deployment.journal_kinds(handler.run_id), "the work is parked")
    eventually(lambda: says in changed.log(), says)
    other = deployment.start(loaded(old).Pair)
    eventually(lambda: "commit" in deployment.journal_kinds(other.run_id), "the worker has gone on")
    assert deployment.journal_kinds(handler.run_id).count("parked") == 1
    assert handler.status() == "running"

    deployment.worker("back", old, pool="solo", queues="umbel,later").wait_ready()
    assert handler.result(40) == result


def test_events_are_bound_by_class_and_in_order_among_equal_ones() -> None:
    base, derived = Envelope("m.Base", (), b""), Envelope("m.Derived", ("m.Base",), b"")

    def binding(accepts: tuple[str, ...], *events: Envelope) -> list[int] | None:
        order = StepPlan(name="s", task="t", kind="all_of", accepts=accepts).binding("all_of", events)
        return None if order is None else list(order)

    assert binding(("m.Base", "m.Derived"), derived, base) == [1, 0]
    assert binding(("m.Base", "m.Base"), base, derived) == [0, 1]
    assert binding(("m.Derived", "m.Derived"), derived, base) is None
    assert binding(("m.Base",), base, derived) is None


def test_what_parked_work_lacks_is_found_in_code_that_takes_its_events() -> None:
    def plan(kind: str, *accepts: str) -> Plan:
        return Plan(workflow="W", start_event="e", steps=(StepPlan(name="s", task="t", kind=kind, accepts=accepts),))

    box = Envelope("m.Box[int | str]", ("m.Thing",), b"{}")
    lacked = Inputs("s", "collect", (box,)).to_lacked()

    assert not {"|", " ", "@"} & set(lacked)
    assert Inputs.from_lacked(lacked).fit(plan("collect", "m.Thing"))
    assert not Inputs.from_lacked(lacked).fit(plan("collect", "m.Other"))
    assert not Inputs.from_lacked(lacked).fit(plan("each", "m.Thing"))
    assert not Inputs.from_lacked(lacked).fit(Plan(workflow="W", start_event="e"))
