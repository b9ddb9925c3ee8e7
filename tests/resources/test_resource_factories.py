"""Resources: valid factories and their dependencies, how often a factory is called, and test doubles."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import pytest
from pydantic import BaseModel

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


def counting(made: list[Made]) -> Callable[[], Made]:
    """Return a factory that records what it creates."""

    def make() -> Made:
        made.append(Made())
        return made[-1]

    return make


def config_of(function: Any) -> StepConfig:
    config = function._step_config
    assert isinstance(config, StepConfig)
    return config


# -- resources in a step's config --------------------------------------------------------------------------------------


def test_a_steps_config_names_parameter_type_and_resource() -> None:
    resource, config = Resource(Made), ResourceConfig("app.json", "llm", label="LLM", description="Which model")

    class Flow(Workflow):
        @step
        def go(
            self, ev: StartEvent, made: Annotated[Made, resource], options: Annotated[dict[str, Any], config]
        ) -> StopEvent: ...

    found = config_of(Flow.go).resources

    assert [(each.name, each.type, each.type_annotation, each.resource) for each in found] == [
        ("made", Made, Made, resource),
        ("options", dict[str, Any], dict[str, Any], config),
    ]
    assert (resource.factory, resource.cache, resource.name) == (Made, True, "Made")
    assert (config.config_file, config.path_selector) == ("app.json", "llm")
    assert (config.label, config.description) == ("LLM", "Which model")


# -- factories ---------------------------------------------------------------------------------------------------------


async def make_async() -> str:
    return "made async"


class AsyncMaker:
    async def __call__(self) -> str:
        return "made async by an object"


class Maker:
    def __init__(self) -> None:
        self.word = "made by a method"

    def make(self) -> str:
        return self.word


async def test_a_factory_is_anything_that_can_be_called() -> None:
    manager = ResourceManager()

    assert await manager.get(Resource(make_async)) == "made async"
    assert await manager.get(Resource(AsyncMaker())) == "made async by an object"
    assert await manager.get(Resource(Maker().make)) == "made by a method"
    assert await manager.get(Resource(lambda: "made by a lambda")) == "made by a lambda"
    assert await manager.get(Resource(functools.partial(int, "7"))) == 7
    assert await manager.get(Resource(dict)) == {}
    assert isinstance(await manager.get(Resource(Made)), Made)


def test_what_cannot_be_called_is_no_factory() -> None:
    with pytest.raises(TypeError, match="takes a factory.*got 'postgres'"):
        Resource("postgres")  # type: ignore[arg-type]


async def test_a_plain_function_that_returns_a_coroutine_is_refused_with_advice_to_make_it_async() -> None:
    with pytest.raises(TypeError, match="is a plain function but returned a coroutine. Use `async def`"):
        await ResourceManager().get(Resource(lambda: make_async()))


async def test_a_plain_factory_is_not_called_on_the_event_loop() -> None:
    def make() -> int:
        return threading.get_ident()

    assert await ResourceManager().get(Resource(make)) != threading.get_ident()


# -- dependencies of factories -----------------------------------------------------------------------------------------


class Settings(BaseModel):
    url: str = "redis://"


def make_settings() -> Settings:
    return Settings()


async def make_client(settings: Annotated[Settings, Resource(make_settings)], retries: int = 3) -> str:
    return f"client of {settings.url}, {retries} retries"


class Service:
    def __init__(self, client: Annotated[str, Resource(make_client)]) -> None:
        self.client = client


async def test_a_factory_is_given_resources_of_its_own() -> None:
    service = await ResourceManager().get(Resource(Service))

    assert service.client == "client of redis://, 3 retries"


async def test_annotations_of_a_factory_inside_a_function_are_resolved_there() -> None:
    class Inner:
        pass

    def make_inner() -> Inner:
        return Inner()

    def make_outer(inner: Annotated[Inner, Resource(make_inner)]) -> list[Inner]:
        return [inner]

    class Flow(Workflow):
        @step
        def go(self, ev: StartEvent, outer: Annotated[list[Inner], Resource(make_outer)]) -> StopEvent: ...

    [outer] = config_of(Flow.go).resources
    assert isinstance(outer.resource, Resource)
    [needed] = outer.resource.dependencies

    assert (needed.name, needed.type) == ("inner", Inner)
    assert isinstance((await ResourceManager().get(outer.resource))[0], Inner)


async def test_a_factorys_parameter_that_nobody_would_pass_is_refused() -> None:
    def make(url: str, retries: int = 3) -> str:
        return url

    with pytest.raises(WorkflowValidationError, match=r"make takes url, for which no value exists\. A factory takes"):
        await ResourceManager().get(Resource(make))


async def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    def make(url: Missing) -> str:  # type: ignore[name-defined]  # noqa: F821
        return "never"

    with pytest.raises(WorkflowValidationError, match=r"type annotations for make\. Missing name: Missing\."):
        await ResourceManager().get(Resource(make))


async def test_a_factory_that_needs_nothing_may_have_annotations_for_type_checkers_only() -> None:
    def make(url: OnlyForCheckers = "redis://") -> AnotherOne:  # type: ignore[name-defined]  # noqa: F821
        return url

    assert await ResourceManager().get(Resource(make)) == "redis://"


def a(b: Annotated[int, Resource(b)]) -> int:
    return b


def b(a: Annotated[int, Resource(a)]) -> int:
    return a


async def test_a_circle_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ValueError, match=r"^Circular resource dependency detected: a -> b -> a$"):
        await ResourceManager().get(Resource(a))


def test_a_circle_is_found_by_validation() -> None:
    class Flow(Workflow):
        @step
        def go(self, ev: StartEvent, n: Annotated[int, Resource(b)]) -> StopEvent: ...

    with pytest.raises(ValueError, match=r"^Circular resource dependency detected: b -> a -> b$"):
        Flow().ensure_valid()


# -- how often a factory is called -------------------------------------------------------------------------------------


async def test_a_value_is_made_once_and_kept() -> None:
    made: list[Made] = []
    make, manager = counting(made), ResourceManager()

    assert await manager.get(Resource(make)) is await manager.get(Resource(make))
    assert len(made) == 1


async def test_false_and_empty_values_are_kept_too() -> None:
    calls: list[None] = []

    def make() -> None:
        calls.append(None)

    manager = ResourceManager()

    assert (await manager.get(Resource(make)), await manager.get(Resource(make))) == (None, None)
    assert len(calls) == 1


async def test_two_factories_of_one_name_make_two_values() -> None:
    one, other = counting([]), counting([])
    manager = ResourceManager()

    assert one.__qualname__ == other.__qualname__
    assert await manager.get(Resource(one)) is not await manager.get(Resource(other))
    assert await manager.get(Resource(lambda: 1)) + await manager.get(Resource(lambda: 2)) == 3


async def test_managers_keep_values_apart() -> None:
    make = counting([])

    assert await ResourceManager().get(Resource(make)) is not await ResourceManager().get(Resource(make))


# -- doubles -----------------------------------------------------------------------------------------------------------


def never() -> Made:
    raise AssertionError("the factory of a double was called")


def never_either(needed: Annotated[Made, Resource(never)]) -> Made:
    raise AssertionError("the factory of a double was called")


@pytest.mark.parametrize("name", ["never_either", f"{__name__}.never_either"])
@pytest.mark.parametrize("cache", [True, False])
async def test_a_double_is_used_instead_of_calling_the_factory(name: str, cache: bool) -> None:
    manager = ResourceManager()
    manager.set(name, "double")

    assert await manager.get(Resource(never_either, cache)) == "double"
    assert manager.get_all() == {name: "double"}


async def test_setting_a_double_may_be_awaited() -> None:
    def local() -> str:
        return never().__class__.__name__

    manager = ResourceManager()
    await manager.set("local", None)

    assert await manager.get(Resource(local)) is None


async def test_the_name_with_the_module_wins() -> None:
    manager = ResourceManager()
    manager.set("never", "any of that name")
    manager.set(f"{__name__}.never", "this one")

    assert await manager.get(Resource(never)) == "this one"


async def test_a_double_stands_in_for_a_config() -> None:
    manager = ResourceManager()
    manager.set("absent.json.llm", Settings(url="double"))

    assert await manager.get(ResourceConfig("absent.json", "llm")) == Settings(url="double")


async def test_a_manager_lists_what_it_has() -> None:
    manager = ResourceManager()
    manager.set("given", 1)
    made = await manager.get(Resource(make_settings))
    await manager.get(Resource(Made, cache=False))

    assert manager.get_all() == {"given": 1, "make_settings": made}
