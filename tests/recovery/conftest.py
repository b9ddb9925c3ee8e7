"""A run for tests of single sweep passes, and the dispatches of a pass."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun
from support.store.sweeping import PLAN, Sent


@pytest.fixture
def dispatches() -> Sent:
    return Sent()


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, PLAN)
