"""Code that changes while a run goes on: what the new code cannot do waits for code that can; it is not lost."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from support.eventually import eventually
from support.processes.driving import Deploy, Deployment
from umbel import WorkflowRuntimeError

CODE = """
from typing import Optional

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Packed(Event):
    n: int
    colour: str


class Parcel(Workflow):
    @step
    async def pick(self, ev: StartEvent) -> Packed:
        return Packed(n=1, colour="red")

    @step(queue="later")
    async def pack(self, ev: Packed) -> StopEvent:
        return StopEvent(result=["old", ev.n])
"""

#: How the code may change between two steps of a run.
CHANGES = {
    "the step is renamed": ("def pack", "def wrap"),
    "the event's class is gone": ("Packed", "Wrapped"),
    "a field has come that old events lack": ("    colour: str\n", "    colour: str\n    weight: int\n"),
    "a field is gone and one has come with a default": ("    colour: str\n", "    weight: int = 0\n"),
}


class Village:
    """One module, `parcels`, in several versions."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment, self.folder = deployment, folder

    def version(self, name: str, old: str = "", new: str = "") -> str:
        """Write a version; returns the worker's target."""
        path = self.folder / name / "parcels.py"
        path.parent.mkdir()
        text = CODE.replace(old, new).replace('["old"', f'["{name}"') if old else CODE
        path.write_text(text)
        return str(path)

    def load(self, target: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location("parcels", target)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["parcels"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@pytest.fixture
def village(deploy: Deploy, tmp_path: Path) -> Iterator[Village]:
    before = sys.modules.pop("parcels", None)
    yield Village(deploy(), tmp_path)
    sys.modules.pop("parcels", None)
    if before is not None:
        sys.modules["parcels"] = before


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_survives_a_change_of_its_code(village: Village, change: str) -> None:
    deployment, old = village.deployment, village.version("old")
    new = village.version("new", *CHANGES[change])
    first = deployment.worker("first", old, pool="solo", queues="umbel").wait_ready()
    handler = deployment.start(village.load(old).Parcel)
    eventually(lambda: [e.step for e in deployment.executions(handler.run_id)] == ["pick"], "it waits for its step")
    first.kill_group()

    changed = deployment.worker("changed", new, pool="solo", queues="umbel,later").wait_ready()

    if "default" in change:
        assert handler.result(40) == ["new", 1]
        return
    if "lack" in change:
        with pytest.raises(WorkflowRuntimeError, match=r"parcels\.Packed does not fit its class: .*weight"):
            handler.result(40)
        changed.kill_group()
        deployment.worker("fixed", old, pool="solo", queues="umbel,later").wait_ready()
        deployment.runtime.portal.call(deployment.runtime.engine.retry(handler.run_id))
    else:
        eventually(lambda: "parked" in deployment.journal_kinds(handler.run_id), "the work is parked")
        assert handler.status() == "running"
        deployment.worker("back", old, pool="solo", queues="umbel,later").wait_ready()
    eventually(lambda: deployment.store.run(handler.run_id).status == "completed", "it completes")
    assert deployment.executions(handler.run_id)[-1].outcome == "done"
