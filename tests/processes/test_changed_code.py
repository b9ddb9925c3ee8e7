"""Code that changes during a run: work that the new code cannot do waits for code that can, and is not lost."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgpack
import pytest

from support.eventually import eventually
from support.processes.driving import Deploy, Deployment
from umbel import ResultUnreadable, UnreadableEvent, WorkflowRuntimeError
from umbel.orchestration.streams.log import EVENT, Entry
from umbel.tasks.client.runtime import Runtime
from umbel.tasks.events.codec import EventRegistry, decode_event

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
        """Write a version; return the worker's target."""
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


FAN_OUT = """
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Item(Event):
    n: int


class Weighed(Event):
    n: int


class Weighing(Workflow):
    @step
    async def split(self, ctx: Context, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(20)]

    @step(queue="later")
    async def weigh(self, ev: Item) -> Weighed:
        return Weighed(n=ev.n)

    @step
    async def add(self, evs: list[Weighed]) -> StopEvent:
        return StopEvent(result=sum(ev.n for ev in evs))


class Sending(Workflow):
    @step
    async def send(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(4):
            ctx.send_event(Item(n=n))

    @step(num_workers=1)
    async def receive(self, ctx: Context, ev: Item) -> StopEvent | None:
        found = ctx.collect_events(ev, [Item] * 4)
        return None if found is None else StopEvent(result=sum(item.n for item in found))
"""


def rewritten(village: Village, name: str, *changes: tuple[str, str]) -> str:
    """Return a version of `FAN_OUT`."""
    text = FAN_OUT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = village.folder / name / "parcels.py"
    path.parent.mkdir()
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("workflow", "result", "renamed"),
    [
        pytest.param("Weighing", 190, "Item", id="the event that opens a fan-out"),
        pytest.param("Weighing", 190, "Weighed", id="the event that a fan-in gathers"),
        pytest.param("Sending", 6, "Item", id="an event that is sent"),
    ],
)
def test_a_run_under_other_code_with_a_renamed_event_waits_for_its_own_code_and_misses_no_data(
    village: Village, workflow: str, result: int, renamed: str
) -> None:
    deployment = village.deployment
    old, new = rewritten(village, "old"), rewritten(village, "new", (renamed, "Renamed"))
    wrong = deployment.worker("new", new, pool="solo", queues="umbel,later").wait_ready()
    handler = deployment.start(getattr(village.load(old), workflow))

    eventually(lambda: "parked" in deployment.journal_kinds(handler.run_id), "the work is parked")
    eventually(lambda: "emits 'parcels.Renamed', which no step accepts in the code that" in wrong.log(), "it says why")
    assert f"there is 'parcels.{renamed}', which is not loaded here: was it renamed?" in wrong.log()
    parked = deployment.journal_kinds(handler.run_id).count("parked")
    deployment.worker("old", old, pool="solo", queues="umbel,later").wait_ready()
    assert handler.result(40) == result
    assert {each.outcome for each in deployment.executions(handler.run_id)} == {"done"}
    assert parked <= 20  # each work item at most once: this worker does not retry it by itself


ASKING = """
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Answer(Event):
    n: int


class Asking(Workflow):
    @step(queue="later")
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            answer = await ctx.wait_for_event(Answer, timeout=300)
        except TimeoutError:
            return StopEvent(result="nothing")
        return StopEvent(result=answer.n)
"""


def test_an_answer_whose_class_was_renamed_waits_for_code_that_knows_it(village: Village) -> None:
    deployment = village.deployment
    targets = {}
    for name, text in (("old", ASKING), ("new", ASKING.replace("Answer", "Renamed"))):
        targets[name] = str(village.folder / name / "parcels.py")
        (village.folder / name).mkdir()
        (village.folder / name / "parcels.py").write_text(text)
    module = village.load(targets["old"])
    first = deployment.worker("old", targets["old"], pool="solo", queues="later").wait_ready()
    handler = deployment.start(module.Asking)
    eventually(lambda: "commit" in deployment.journal_kinds(handler.run_id), "it waits")
    first.kill_group()

    handler.send_event(module.Answer(n=7))
    deployment.worker("new", targets["new"], pool="solo", queues="later").wait_ready()
    eventually(lambda: "parked" in deployment.journal_kinds(handler.run_id), "the work is parked")
    deployment.worker("back", targets["old"], pool="solo", queues="later").wait_ready()
    assert handler.result(40) == 7


def test_an_event_that_only_the_new_code_routes_waits_for_the_code_its_run_started_with(village: Village) -> None:
    deployment = village.deployment
    old = rewritten(village, "old")
    new = rewritten(
        village,
        "new",
        ("class Weighing", "class Special(Item):\n    pass\n\n\nclass Weighing"),
        ("-> list[Item]", "-> list[Item | Special]"),
        ("[Item(n=n)", "[(Special if n == 7 else Item)(n=n)"),
        ("ev: Item) -> Weighed", "ev: Item | Special) -> Weighed"),
    )
    deployment.worker("new", new, pool="solo", queues="umbel,later").wait_ready()
    handler = deployment.start(village.load(old).Weighing)
    eventually(lambda: "parked" in deployment.journal_kinds(handler.run_id), "the work is parked")
    after = deployment.start(village.load(new).Weighing)
    assert after.result(40) == 190  # meanwhile that worker has looked for parked work that it can execute
    assert deployment.journal_kinds(handler.run_id).count("parked") == 1
    deployment.worker("old", old, pool="solo", queues="umbel,later").wait_ready()
    assert handler.result(40) == 190


def test_a_client_of_other_code_cannot_send_an_event_that_the_run_does_not_route(village: Village) -> None:
    deployment = village.deployment
    village.load(rewritten(village, "new", ("Item", "Renamed")))
    handler = deployment.start(village.load(rewritten(village, "old")).Weighing)
    newer = village.load(str(village.folder / "new" / "parcels.py"))
    other = Runtime(deployment.settings)
    try:
        other.registry.add(newer.Weighing)
        with pytest.raises(WorkflowRuntimeError, match=r"other code .* no step accepts parcels\.Renamed"):
            other.attach(handler.run_id).send_event(newer.Renamed(n=1))
    finally:
        other.close()


READING = """
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Weighed(Event):
    kg: int


class Sealed(Event):
    by: str


class Sent(StopEvent):
    to: str


class Post(Workflow):
    @step
    async def send(self, ctx: Context, ev: StartEvent) -> Sent:
        ctx.write_event_to_stream(Weighed(kg=2))
        ctx.write_event_to_stream(Sealed(by="Ida"))
        ctx.write_event_to_stream(Weighed(kg=3))
        return Sent(to="Rome")
"""


def test_a_reader_passes_over_events_that_it_cannot_read_and_says_why_and_a_result_is_a_clear_error(
    village: Village,
) -> None:
    deployment = village.deployment
    (village.folder / "old").mkdir()
    (village.folder / "old" / "parcels.py").write_text(READING)
    new = (
        READING.replace("kg: int", "kg: int\n    grams: int").replace("Sealed", "Stamped").replace("to: str", "at: int")
    )
    (village.folder / "new").mkdir()
    (village.folder / "new" / "parcels.py").write_text(new)
    deployment.worker("old", str(village.folder / "old" / "parcels.py"), pool="solo").wait_ready()
    module = village.load(str(village.folder / "new" / "parcels.py"))
    handler = deployment.start(module.Post)

    found = list(handler.events(timeout=40))

    assert {type(event) for event in found} == {UnreadableEvent}
    assert [event.event_type for event in found] == ["Weighed", "Sealed", "Weighed", "Sent"]
    assert [event.payload for event in found[:3]] == ['{"kg":2}', '{"by":"Ida"}', '{"kg":3}']
    assert "parcels.Weighed does not fit its class: " in found[0].reason
    assert "grams" in found[0].reason
    assert "No event class 'parcels.Sealed' is loaded in this process" in found[1].reason
    assert list(handler.events(types=[module.Weighed], timeout=40))[1].reason == found[2].reason
    for read in (handler.result, handler.get_stop_event):
        with pytest.raises(
            ResultUnreadable, match=f"Run '{handler.run_id}' is completed, but its result cannot be read"
        ):
            read()
    assert handler.status() == "completed"


@pytest.mark.parametrize("data", [b"", b"\xc1", msgpack.packb(["no envelope", "step", 1])])
def test_a_damaged_entry_of_a_log_is_read_as_an_unreadable_event(data: bytes) -> None:
    event = decode_event(Entry(7, EVENT, data).decoded().envelope, EventRegistry.of())
    assert isinstance(event, UnreadableEvent)
    assert event.reason.startswith("Entry 7 of the log is damaged: ")
