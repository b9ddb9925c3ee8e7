"""Function libraries that other releases left in Redis are found and removed; those in use stay or are reloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.driving import DrivenRun, plan_of, step
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.envelope import START
from umbel.orchestration.store.scripts import Library, library
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine, remove_unused_libraries
from umbel.workers.doctor.libraries import loaded_libraries
from umbel.workers.doctor.redis_rules import Finding
from umbel.workers.embedded.redis_server import EmbeddedRedis

OLD = Library.of("redis.register_function('{--[[library]]}_start', function() return 1 end)")
PLAN = plan_of(step("begin", START))


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with EmbeddedRedis.temporary() as server:
        yield Settings(redis_url=server.url)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = blocking_store(settings)
    DrivenRun(made, PLAN).start()
    made.client.function_load(OLD.text, replace=True)
    yield made
    made.client.flushall()
    made.client.close()
    made.portal.close()


def announce(store: Store, uses: Library) -> None:
    """Write a worker's entry in the worker directory."""
    seconds, _ = store.client.time()
    about = {"host": "h", "pid": 1, "workflows": [], "queues": [], "seen_at": seconds * 1000, "library": uses.name}
    store.client.hset(store.keys.in_shard(0, "workers"), "other@h", json.dumps(about))


def found(settings: Settings) -> list[Finding]:
    return [each for each in examine(settings, create_app(settings)) if each.about == "functions"]


def test_the_doctor_names_a_library_that_no_worker_uses(settings: Settings, store: Store) -> None:
    (finding,) = found(settings)

    assert OLD.name in finding.text
    assert library().name not in finding.text
    assert "--remove-unused" in finding.fix


def test_a_library_that_a_worker_of_another_release_uses_is_left_alone(settings: Settings, store: Store) -> None:
    announce(store, OLD)

    assert found(settings) == []
    assert remove_unused_libraries(settings) == []
    assert store.call(loaded_libraries, store) == sorted([OLD.name, library().name])


def test_a_library_that_nothing_uses_is_removed(settings: Settings, store: Store) -> None:
    assert remove_unused_libraries(settings) == [OLD.name]
    assert store.call(loaded_libraries, store) == [library().name]
    assert found(settings) == []


def test_a_run_goes_on_when_the_library_in_use_was_removed(store: Store) -> None:
    store.client.function_delete(library().name)

    run = DrivenRun(store, PLAN).start()

    assert run.claim("begin").step == "begin"
    assert library().name in store.call(loaded_libraries, store)
