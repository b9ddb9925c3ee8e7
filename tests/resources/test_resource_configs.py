"""Configs: a part of a JSON file as a model, and validation of configs and factories."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict

from umbel.orchestration.model.errors import WorkflowValidationError
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import StartEvent, StopEvent
from umbel.tasks.resources.config import ResourceConfig
from umbel.tasks.resources.resolution import ResourceManager
from umbel.tasks.resources.resource import Resource
from umbel.tasks.steps.decorators import StepConfig, step

T = TypeVar("T")


class Made:
    """A class without behavior."""


def config_of(function: Any) -> StepConfig:
    config = function._step_config
    assert isinstance(config, StepConfig)
    return config


# -- configs -----------------------------------------------------------------------------------------------------------


class Llm(BaseModel):
    model_config = ConfigDict(strict=True)

    model: str
    stops: set[str] = set()
    temperature: float = 0.0


@pytest.fixture
def app_json(tmp_path: Path) -> str:
    path = tmp_path / "app.json"
    fast = {"model": "small", "stops": ["."], "temperature": 1}
    path.write_text(json.dumps({"llm": {"fast": fast, "broken": {"modell": "small"}}, "names": ["a"], "none": None}))
    return str(path)


async def test_a_config_is_a_part_of_a_file_as_its_annotated_type(app_json: str) -> None:
    manager = ResourceManager()

    assert await manager.get(ResourceConfig(app_json, "llm.fast"), Llm) == Llm(
        model="small", stops={"."}, temperature=1
    )
    assert (await manager.get(ResourceConfig(Path(app_json)), dict[str, Any]))["names"] == ["a"]


async def test_a_config_is_read_once(app_json: str) -> None:
    manager = ResourceManager()
    config = await manager.get(ResourceConfig(app_json, "llm.fast"), Llm)
    Path(app_json).unlink()

    assert await manager.get(ResourceConfig(app_json, "llm.fast"), Llm) is config


async def test_a_config_can_be_what_a_factory_needs(app_json: str) -> None:
    file = app_json  # names in annotations are looked up in the module first, where this one is the fixture

    def make_llm(config: Annotated[Llm, ResourceConfig(file, "llm.fast")]) -> str:
        return f"llm {config.model}"

    assert await ResourceManager().get(Resource(make_llm)) == "llm small"


@pytest.mark.parametrize("file", ["app.yaml", "json", ".json"])
def test_only_json_files_are_taken(file: str) -> None:
    with pytest.raises(ValueError, match=rf"^ResourceConfig reads JSON: expected a file .* got '{re.escape(file)}'\.$"):
        ResourceConfig(file)


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (
            "llm.slow",
            r"selector 'llm.slow', leads nowhere: expected 'slow' in 'llm', found the keys 'fast', 'broken'\.",
        ),
        ("nothing", r"leads nowhere: expected 'nothing' in the file, found the keys 'llm', 'names', 'none'\."),
        ("names.0", r"leads nowhere: expected '0' in 'names', found a list\."),
        ("names", r"selector 'names', must lead to an object, found a list\."),
        ("none", r"selector 'none', must lead to an object, found null\."),
        ("llm.fast.temperature", r"must lead to an object, found a number\."),
        ("llm.broken", r"does not fit Llm: model: Field required\. Found the keys 'modell'\."),
    ],
)
async def test_a_selector_that_leads_nowhere_is_refused_with_what_is_there(
    app_json: str, selector: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        await ResourceManager().get(ResourceConfig(app_json, selector), Llm)
    assert f"Config file {app_json!r}" in str(caught.value)


async def test_a_file_that_is_not_there_is_named_with_the_place_that_was_looked_at() -> None:
    with pytest.raises(FileNotFoundError, match=r"'absent\.json' does not exist: nothing found at /.*/absent\.json\."):
        await ResourceManager().get(ResourceConfig("absent.json"), Llm)


async def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "app.json"
    path.write_text("{'model': 1}")

    with pytest.raises(ValueError, match=r"app\.json' is not JSON: Expecting property name.*line 1 column 2"):
        await ResourceManager().get(ResourceConfig(str(path)), Llm)


async def test_a_type_that_pydantic_does_not_know_is_named(app_json: str) -> None:
    with pytest.raises(ValueError, match="cannot become Made: expected a pydantic model as the annotated type"):
        await ResourceManager().get(ResourceConfig(app_json), Made)


# -- validation --------------------------------------------------------------------------------------------------------


def test_validation_reads_configs_and_lists_every_fault(app_json: str) -> None:
    file = app_json  # names in annotations are looked up in the module first, where this one is the fixture

    def make_llm(config: Annotated[Llm, ResourceConfig(file, "llm.slow")]) -> str:
        return config.model

    class Flow(Workflow):
        @step
        def go(
            self,
            ev: StartEvent,
            llm: Annotated[str, Resource(make_llm)],
            absent: Annotated[Llm, ResourceConfig("absent.json")],
            fine: Annotated[Llm, ResourceConfig(app_json, "llm.fast")],
        ) -> StopEvent: ...

    flow = Flow()
    with pytest.raises(WorkflowValidationError) as caught:
        flow.ensure_valid()
    first, *faults = str(caught.value).splitlines()

    assert first == "Workflow 'Flow' has configs that cannot be read:"
    assert [fault.partition(": ")[0] for fault in faults] == [
        f"In step 'go', parameter 'llm' (make_llm -> {app_json}.llm.slow)",
        "In step 'go', parameter 'absent'",
    ]
    assert flow.validate(validate_resource_configs=False) is False
    with pytest.raises(WorkflowValidationError):
        flow.ensure_valid()


def test_configs_are_read_again_by_each_validation(app_json: str) -> None:
    class Flow(Workflow):
        @step
        def go(self, ev: StartEvent, llm: Annotated[Llm, ResourceConfig(app_json, "llm.fast")]) -> StopEvent: ...

    flow = Flow()
    flow.validate()
    Path(app_json).unlink()

    with pytest.raises(WorkflowValidationError, match="does not exist"):
        flow.validate()
    assert flow.ensure_valid() is False  # this instance was validated once already
    with pytest.raises(WorkflowValidationError, match="does not exist"):
        Flow().ensure_valid()


async def make_client() -> str:
    return "connected"


def never() -> Made:
    raise ConnectionRefusedError("nobody listens")


def never_either(needed: Annotated[Made, Resource(never)]) -> Made:
    return needed


class Checked(Workflow):
    """One resource works, two fail."""

    @step
    async def go(
        self,
        ev: StartEvent,
        fine: Annotated[Made, Resource(Made)],
        client: Annotated[str, Resource(make_client)],
        broken: Annotated[Made, Resource(never)],
        deep: Annotated[Made, Resource(never_either)],
    ) -> StopEvent: ...


def test_validation_calls_factories_on_request() -> None:
    flow = Checked()

    assert flow.validate() is False
    with pytest.raises(WorkflowValidationError) as caught:
        flow.validate(validate_resources=True)

    fault = "ConnectionRefusedError: nobody listens; raised while creating resource never"
    assert str(caught.value).splitlines() == [
        "Workflow 'Checked' has resources that cannot be created:",
        f"In step 'go', parameter 'broken': {fault}",
        f"In step 'go', parameter 'deep': {fault}",
    ]


async def test_validation_calls_factories_inside_a_running_event_loop_too() -> None:
    manager = ResourceManager()
    manager.set("never", "double")
    manager.set("never_either", "double")
    flow = Checked(resource_manager=manager)

    assert flow.validate(validate_resources=True) is False
    assert isinstance(manager.get_all()["Made"], Made)


def test_each_workflow_has_a_manager_of_its_own_unless_given_one() -> None:
    manager = ResourceManager()

    assert Checked().resource_manager is not Checked().resource_manager
    assert Checked(resource_manager=manager).resource_manager is manager


def test_a_manager_must_be_one() -> None:
    with pytest.raises(WorkflowValidationError, match="resource_manager must be a ResourceManager or None, got {}"):
        Checked(resource_manager={})  # type: ignore[arg-type]
