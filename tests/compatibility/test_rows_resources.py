"""Rows 76 and 77: the resources of steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from umbel import Context, Workflow, retry_policy, step
from umbel.errors import WorkflowValidationError
from umbel.events import Event, StartEvent, StopEvent
from umbel.resource import Resource, ResourceConfig, ResourceManager
from umbel.retry_policy import stop_after_attempt, wait_none


class Item(Event):
    n: int


def counting(calls: list[int]) -> Callable[[], int]:
    """Return a factory that returns the number of its call."""

    def number() -> int:
        calls.append(len(calls) + 1)
        return calls[-1]

    return number


# -- 76 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(76)
async def test_a_resource_is_made_once_for_all_steps_and_runs_of_a_workflow_instance() -> None:
    calls: list[int] = []
    plain = counting(calls)

    async def doubled(n: Annotated[int, Resource(plain)]) -> int:
        return 2 * n

    class Flow(Workflow):
        @step
        async def one(self, n: Annotated[int, Resource(plain)], ev: StartEvent) -> Item:
            return Item(n=n)

        @step
        def two(
            self, ev: Item, n: Annotated[int, Resource(plain)], twice: Annotated[int, Resource(doubled)]
        ) -> StopEvent:
            return StopEvent(result=[ev.n, n, twice])

    flow = Flow()
    assert [await flow.run(), await flow.run()] == [[1, 1, 2], [1, 1, 2]]
    assert await Flow().run() == [2, 2, 4]
    shared = ResourceManager()
    assert [await Flow(resource_manager=shared).run() for _ in range(2)] == [[3, 3, 6], [3, 3, 6]]
    assert calls == [1, 2, 3]


@pytest.mark.row(76)
async def test_without_cache_each_execution_of_a_step_gets_one_of_its_own() -> None:
    calls: list[int] = []
    number = counting(calls)

    def doubled(n: Annotated[int, Resource(number, cache=False)]) -> int:
        return 2 * n

    class Flow(Workflow):
        @step
        async def one(
            self,
            ev: StartEvent,
            n: Annotated[int, Resource(number, cache=False)],
            twice: Annotated[int, Resource(doubled, cache=False)],
        ) -> Item:
            return Item(n=100 * n + twice)

        @step
        async def two(self, ev: Item, n: Annotated[int, Resource(number, cache=False)]) -> StopEvent:
            return StopEvent(result=[ev.n, n])

    assert await Flow().run() == [102, 2]
    assert calls == [1, 2]


@pytest.mark.row(76)
async def test_factories_of_one_name_are_distinguished() -> None:
    """In LlamaIndex Workflows the name of the factory is the key, so that both would get the same value."""

    class Flow(Workflow):
        @step
        async def go(
            self, ev: StartEvent, a: Annotated[str, Resource(lambda: "a")], b: Annotated[str, Resource(lambda: "b")]
        ) -> StopEvent:
            return StopEvent(result=a + b)

    assert await Flow().run() == "ab"


def hen(egg: Annotated[int, Resource(egg)]) -> int:
    return egg


def egg(hen: Annotated[int, Resource(hen)]) -> int:
    return hen


@pytest.mark.row(76)
def test_a_circle_is_an_error_that_shows_it() -> None:
    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, n: Annotated[int, Resource(hen)]) -> StopEvent:
            return StopEvent(result=n)

    with pytest.raises(ValueError, match="^Circular resource dependency detected: hen -> egg -> hen$"):
        Flow().run()


@pytest.mark.row(76)
async def test_a_factory_that_fails_fails_the_step_and_the_retry_calls_it_again() -> None:
    calls: list[int] = []

    async def connect() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")
        return "connected"

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def go(self, ctx: Context, ev: StartEvent, db: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=[db, str(ctx.retry_info().last_exception)])

    assert await Flow().run() == ["connected", "refused"]


@pytest.mark.row(76)
async def test_a_manager_is_given_doubles_and_asked_for_what_there_is() -> None:
    def connect() -> str:
        raise AssertionError("must not be called")

    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, db: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=db)

    manager = ResourceManager()
    await manager.set("connect", "a double")
    assert await Flow(resource_manager=manager).run() == "a double"
    assert manager.get_all() == {"connect": "a double"}
    assert await manager.get(Resource(connect)) == "a double"


# -- 77 ----------------------------------------------------------------------------------------------------------------


class Model(BaseModel):
    name: str
    temperature: float = 0.5


def answering_with(config: Any) -> type[Workflow]:
    """Return a workflow whose step gets a `Model` from a config."""

    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, model: Annotated[Model, config]) -> StopEvent:
            return StopEvent(result=model)

    return Flow


@pytest.fixture
def app_json(tmp_path: Path) -> Path:
    file = tmp_path / "app.json"
    file.write_text(
        json.dumps({"name": "whole", "llm": {"fast": {"name": "small"}, "list": [1], "bad": {"temperature": "hot"}}})
    )
    return file


@pytest.mark.row(77)
async def test_a_config_is_a_part_of_a_json_file_as_a_model(app_json: Path) -> None:
    whole = answering_with(ResourceConfig(str(app_json)))
    part = answering_with(ResourceConfig(str(app_json), "llm.fast", label="LLM", description="the fast one"))

    assert await whole().run() == Model(name="whole")
    assert await part().run() == Model(name="small", temperature=0.5)


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        ("llm.slow", "leads nowhere: expected 'slow' in 'llm', found the keys 'fast', 'list', 'bad'"),
        ("llm.list", "must lead to an object, found a list"),
        ("llm.bad", "does not fit Model: name: Field required; temperature: Input should be a valid number"),
    ],
)
@pytest.mark.row(77)
def test_what_is_wrong_with_a_config_is_said_when_a_run_is_started(app_json: Path, selector: str, problem: str) -> None:
    flow = answering_with(ResourceConfig(str(app_json), selector))()

    with pytest.raises(WorkflowValidationError, match="has configs that cannot be read") as caught:
        flow.run()
    for part in ("step 'go', parameter 'model'", str(app_json), selector, problem):
        assert part in str(caught.value)
    assert flow.validate(validate_resource_configs=False) is False


@pytest.mark.row(77)
def test_a_missing_file_is_noticed_at_the_run_and_a_wrong_suffix_at_once(tmp_path: Path) -> None:
    flow = answering_with(ResourceConfig(str(tmp_path / "later.json")))()

    with pytest.raises(WorkflowValidationError, match="later.json' does not exist"):
        flow.run()
    with pytest.raises(ValueError, match="ends in .json, got 'app.yaml'"):
        ResourceConfig("app.yaml")
