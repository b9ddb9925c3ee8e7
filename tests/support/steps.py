"""Steps as `@step` and `@catch_error` read them."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel

from umbel.orchestration.model.errors import WorkflowValidationError
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import Event
from umbel.tasks.steps.decorators import StepConfig, step
from umbel.tasks.steps.signature import StepContextMarker

StateT = TypeVar("StateT")


class Ctx(StepContextMarker, Generic[StateT]):
    """A context for annotations, like the real one."""


class Counter(BaseModel):
    value: int = 0


class A(Event):
    pass


class B(Event):
    pass


def config_of(function: Any) -> StepConfig:
    """Return the config that the decorator has read from a function."""
    config = function._step_config
    assert isinstance(config, StepConfig)
    return config


def decorated(function: Any, **options: Any) -> StepConfig:
    """Decorate a function as a step of a new workflow."""

    class Flow(Workflow):
        pass

    return config_of(step(workflow=Flow, **options)(function))


def refused(function: Any, **options: Any) -> str:
    """Return the text of the error with which `@step` refuses a function."""
    with pytest.raises(WorkflowValidationError) as caught:
        decorated(function, **options)
    return str(caught.value)


def module_level(ev: A) -> None:
    """A free function of the module."""
