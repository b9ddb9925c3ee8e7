"""The scenarios that need one guard each, on the unchanged scripts; `test_guards` removes the guards."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from support.model import scenarios, waiting_scenarios
from support.store.blocking import BlockingStore as Store
from support.store.checks import checked_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings

SCENARIOS = [
    function
    for module in (scenarios, waiting_scenarios)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and list(inspect.signature(function).parameters) == ["store"]
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_it_holds_that(client: Client, settings: Settings, scenario: Callable[[Store], None]) -> None:
    scenario(checked_store(client, settings))
