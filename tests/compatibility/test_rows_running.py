"""Rows 1 to 9: imports, time limits and concurrency of runs, names and ids, how a run begins and ends."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import re
import sys
from typing import Any

import pytest

import umbel
from support.runs import idle
from support.store.blocking import store_of
from umbel import Context, Workflow, step
from umbel.errors import (
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    WorkflowValidationError,
)
from umbel.events import HumanResponseEvent, StartEvent, StopEvent, WorkflowTimedOutEvent
from umbel.handler import WorkflowHandler
from umbel.plugins import BasicRuntime


class Go(HumanResponseEvent):
    """Lets a run end."""


class Greeting(StartEvent):
    name: str
    times: int = 1


class Greeted(StopEvent):
    text: str


class Plain(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.to_dict())


class Waiting(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Go)
        return StopEvent(result="went")


class Greeter(Workflow):
    @step
    async def greet(self, ev: Greeting) -> Greeted:
        return Greeted(text=" ".join([f"hello {ev.name}"] * ev.times))


def time_limit_in_ms(runtime: BasicRuntime, handler: WorkflowHandler) -> float | None:
    """Return how long after its start the run times out; None if it does not, or has not been admitted."""
    store = store_of(runtime)
    due = store.client.zscore(store.locate(handler.run_id)["timers"], f"timeout|{handler.run_id}")
    return None if due is None else due - store.run(handler.run_id).created_at


def turn_the_clock_past_the_limit(runtime: BasicRuntime, handler: WorkflowHandler) -> None:
    timers = runtime.store.locate(handler.run_id)["timers"]
    assert store_of(runtime).client.zadd(timers, {f"timeout|{handler.run_id}": 1}, xx=True, ch=True) == 1


# -- 1: imports --------------------------------------------------------------------------------------------------------

SURFACE = {
    "umbel": "Context Workflow catch_error step",
    "umbel.workflow": "Workflow",
    "umbel.decorators": "StepConfig StepFunction catch_error step",
    "umbel.handler": "WorkflowHandler",
    "umbel.events": (
        "Event HumanResponseEvent InputRequiredEvent InternalDispatchEvent StartEvent StepFailedEvent StepState "
        "StepStateChanged StopEvent UnhandledEvent WorkflowCancelledEvent WorkflowFailedEvent WorkflowIdleEvent "
        "WorkflowTimedOutEvent"
    ),
    "umbel.errors": (
        "ContextSerdeError ContextStateError WorkflowCancelledByUser WorkflowConfigurationError WorkflowDone "
        "WorkflowRuntimeError WorkflowStepDoesNotExistError WorkflowTimeoutError WorkflowValidationError"
    ),
    "umbel.context": "BaseSerializer Context JsonSerializer PickleSerializer",
    "umbel.context.serializers": "BaseSerializer JsonPickleSerializer JsonSerializer PickleSerializer",
    "umbel.context.state_store": "DictState InMemoryStateStore StateStore UnserializableKeyWarning",
    "umbel.collect": "All Cardinality Collect Take",
    "umbel.resource": "Resource ResourceConfig ResourceDefinition ResourceManager",
    "umbel.retry_policy": "RetryPolicy retry_policy stop_after_attempt wait_fixed",
    "umbel.testing": "WorkflowTestRunner",
    "umbel.representation": "WorkflowGraph get_workflow_representation",
    "umbel.types": "RunResultT StopEventT",
    "umbel.plugins": "BasicRuntime basic_runtime get_current_runtime",
}

#: Names that older programs import from `llama_index.core.workflow`.
OLDER_NAMES = (
    "Context Event HumanResponseEvent InputRequiredEvent JsonPickleSerializer JsonSerializer StartEvent StopEvent "
    "Workflow WorkflowRuntimeError WorkflowTimeoutError WorkflowValidationError draw_all_possible_flows "
    "draw_most_recent_execution step"
)

PROGRAM = """
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

class Joke(Event):
    text: str

class Jokes(Workflow):
    @step
    async def tell(self, ctx: Context, ev: StartEvent) -> Joke:
        await ctx.store.set("topic", ev.topic)
        return Joke(text=f"two {ev.topic} meet")

    @step
    async def rate(self, ctx: Context, ev: Joke) -> StopEvent:
        return StopEvent(result=f"{ev.text}: {await ctx.store.get('topic')}")

async def main():
    return await Jokes(timeout=60, verbose=False).run(topic="pirates")
"""


@pytest.mark.parametrize("module", SURFACE)
@pytest.mark.row(1)
def test_every_module_of_the_import_surface_is_there_under_umbel(module: str) -> None:
    found = importlib.import_module(module)

    assert [name for name in SURFACE[module].split() if not hasattr(found, name)] == []
    same = [name for name in SURFACE[module].split() if name in umbel.__all__ and name != "retry_policy"]
    assert all(getattr(found, name) is getattr(umbel, name) for name in same)


@pytest.mark.parametrize("root", ["workflows", "llama_index.core.workflow", "llama_agents.workflows"])
@pytest.mark.row(1)
async def test_a_program_runs_with_only_its_import_root_changed(root: str) -> None:
    assert [name for name in OLDER_NAMES.split() if not hasattr(umbel, name)] == []
    program = PROGRAM.replace("from workflows", f"from {root}")
    module: dict[str, Any] = {"__name__": f"ported_from_{root.replace('.', '_')}"}

    exec(program.replace(f"from {root}", "from umbel"), module)

    assert await module["main"]() == "two pirates meet: pirates"


# -- 2, 3, 4, 5: time limits and concurrency ---------------------------------------------------------------------------


@pytest.mark.row(2)
async def test_a_run_times_out_after_45_seconds_by_default(runtime: BasicRuntime) -> None:
    class Lingering(Workflow):
        @step
        async def linger(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

    assert inspect.signature(Workflow).parameters["timeout"].default == 45.0
    handler = Lingering().run()
    assert time_limit_in_ms(runtime, handler) == 45_000

    turn_the_clock_past_the_limit(runtime, handler)

    with pytest.raises(WorkflowTimeoutError, match=r"^Operation timed out after 45\.0 seconds\. "):
        await handler


@pytest.mark.row(2)
@pytest.mark.parametrize("given", [{}, {"timeout": None}])
async def test_none_is_no_time_limit_and_the_default_where_events_are_waited_for(
    given: dict[str, None], runtime: BasicRuntime
) -> None:
    handler = Waiting(**given).run()
    assert time_limit_in_ms(runtime, handler) is None

    await handler.send_event(Go())

    assert await handler == "went"


@pytest.mark.row(3)
async def test_a_timeout_names_the_active_steps_in_the_stream_and_in_the_error(runtime: BasicRuntime) -> None:
    class Slow(Workflow):
        @step
        async def linger(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

        @step
        async def dawdle(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

    handler = Slow(timeout=7.5).run()
    turn_the_clock_past_the_limit(runtime, handler)

    with pytest.raises(WorkflowTimeoutError) as caught:
        await handler
    assert str(caught.value) == "Operation timed out after 7.5 seconds. Currently active steps: dawdle, linger"
    last = [event async for event in handler.stream_events()][-1]
    assert isinstance(last, WorkflowTimedOutEvent)
    assert (last.timeout, last.active_steps) == (7.5, ["dawdle", "linger"])


@pytest.mark.row(3)
async def test_a_timeout_of_a_run_that_only_waits_says_no_steps_active(runtime: BasicRuntime) -> None:
    handler = Waiting(timeout=2.5).run()
    await idle(handler)
    turn_the_clock_past_the_limit(runtime, handler)

    with pytest.raises(WorkflowTimeoutError) as caught:
        await handler
    assert str(caught.value) == "Operation timed out after 2.5 seconds. No steps active"
    assert handler.get_stop_event() == WorkflowTimedOutEvent(timeout=2.5, active_steps=[])


@pytest.mark.row(4)
async def test_the_time_limit_counts_from_admission(runtime: BasicRuntime) -> None:
    flow = Waiting(num_concurrent_runs=1, timeout=60)
    first, second = flow.run(), flow.run()
    assert time_limit_in_ms(runtime, first) is not None
    assert time_limit_in_ms(runtime, second) is None

    await first.send_event(Go())
    assert await first == "went"

    await idle(second)
    limit = time_limit_in_ms(runtime, second)
    assert limit is not None
    assert limit > 60_000  # longer than a minute after its start: the waiting time is added
    await second.send_event(Go())
    assert await second == "went"


@pytest.mark.row(5)
async def test_no_more_runs_of_a_workflow_execute_than_num_concurrent_runs_across_the_deployment() -> None:
    going_on, most = 0, 0
    full = asyncio.Event()

    class Limited(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            nonlocal going_on, most
            going_on += 1
            most = max(most, going_on)
            if going_on == 3:
                full.set()
            await full.wait()  # the first three can only continue together
            going_on -= 1
            return StopEvent(result=ev.n)

    handlers = [Limited(num_concurrent_runs=3).run(n=n) for n in range(10)]

    assert [await handler for handler in handlers] == list(range(10))
    assert most == 3


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
@pytest.mark.row(5)
def test_num_concurrent_runs_is_a_positive_integer_or_none(limit: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="^num_concurrent_runs must be an integer greater than 0 or None"):
        Plain(num_concurrent_runs=limit)


# -- 6, 7: names and ids -----------------------------------------------------------------------------------------------


@pytest.mark.row(6)
def test_a_workflow_is_named_by_module_and_qualified_name_unless_given() -> None:
    class Local(Plain):
        pass

    assert Plain().workflow_name == f"{__name__}.Plain"
    assert Local().workflow_name.endswith(
        ".test_a_workflow_is_named_by_module_and_qualified_name_unless_given.<locals>.Local"
    )
    assert Plain(workflow_name="orders").workflow_name == "orders"


@pytest.mark.row(6)
def test_a_class_of_the_program_itself_is_named_as_other_processes_import_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None, raising=False)
    monkeypatch.setattr(main, "__file__", "/srv/shop.py", raising=False)
    program = type("Flow", (Plain,), {"__module__": "__main__"})

    assert program().workflow_name == "shop.Flow"


@pytest.mark.row(7)
async def test_run_id_names_the_run_and_never_reaches_the_start_event() -> None:
    handler = Plain().run(run_id="order-1", topic="ships")

    assert handler.run_id == "order-1"
    assert await handler == {"topic": "ships"}


@pytest.mark.row(7)
async def test_a_run_id_that_is_taken_is_refused_also_when_its_run_has_ended() -> None:
    handler = Waiting().run(run_id="order-2")

    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^Workflow run with run_id 'order-2' already exists\."):
            Waiting().run(run_id="order-2")
        await handler.cancel_run()


@pytest.mark.row(7)
async def test_ids_that_are_not_given_are_unguessable() -> None:
    ids = {Plain().run().run_id for _ in range(3)}

    assert len(ids) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", run_id) for run_id in ids)


# -- 8, 9: beginning and end -------------------------------------------------------------------------------------------


@pytest.mark.row(8)
async def test_a_start_event_is_made_of_keywords_or_given() -> None:
    assert (await Greeter().run(name="Ada", times=2)).text == "hello Ada hello Ada"
    assert (await Greeter().run(start_event=Greeting(name="Bo"))).text == "hello Bo"
    assert await Plain().run(any_name=[1, None]) == {"any_name": [1, None]}


@pytest.mark.row(8)
async def test_keywords_that_make_no_start_event_are_refused_by_run_itself() -> None:
    with pytest.raises(WorkflowRuntimeError, match="^Failed creating a start event of type Greeting"):
        Greeter().run(times="twice")


@pytest.mark.row(8)
async def test_what_is_no_start_event_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="start_event must be a StartEvent"):
        Plain().run(start_event=Go())  # type: ignore[arg-type]


@pytest.mark.row(8)
async def test_keywords_beside_a_start_event_are_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "umbel"):
        handler = Greeter().run(start_event=Greeting(name="Cy"), name="Di")

    assert (await handler).text == "hello Cy"
    assert "got a start event and keyword arguments; name ignored" in caplog.text


@pytest.mark.row(9)
async def test_a_stop_event_gives_its_result_and_a_subclass_itself() -> None:
    assert type(await Plain().run(x=1)) is dict

    greeted = await Greeter().run(name="Eve")

    assert type(greeted) is Greeted
    assert greeted.text == "hello Eve"


@pytest.mark.row(9)
def test_a_workflow_knows_its_start_and_stop_event_class() -> None:
    assert (Greeter().start_event_class, Greeter().stop_event_class) == (Greeting, Greeted)
    assert (Plain().start_event_class, Plain().stop_event_class) == (StartEvent, StopEvent)
