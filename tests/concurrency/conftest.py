"""The runs that the tests of concurrency limits drive."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.limited_runs import Crowd


@pytest.fixture
def crowd(store: Store) -> Crowd:
    return Crowd(store)
