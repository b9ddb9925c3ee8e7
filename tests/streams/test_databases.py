"""Deployments in two databases of one Redis, with the same key prefix and run ids, do not get each other's events."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.driving import stop
from support.store.streams import PATIENCE, KillableRedis, OwnHub, Telling, store_on
from umbel.orchestration.streams.watch import EndedWatch


@pytest.fixture
def stores(redis: KillableRedis) -> Iterator[tuple[Store, Store]]:
    prefix = f"t{secrets.token_hex(6)}"
    both = tuple(store_on(redis.url.replace("/0", f"/{number}"), prefix, shards=1) for number in (0, 1))
    yield both  # type: ignore[misc]
    for store in both:
        store.client.close()


def test_a_caller_gets_the_result_of_the_run_in_its_own_database(stores: tuple[Store, Store]) -> None:
    staging, production = (Telling(store, "same-id") for store in stores)
    hub = OwnHub(stores[1])
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(hub.wait_ended, "same-id", PATIENCE)
        eventually(lambda: any(b"ended" in each for each in stores[1].client.pubsub_channels()), "it is waited for")
        staging.commit(staging.work, stop("of staging"), batches=staging.batches)
        production.commit(production.work, stop("of production"), batches=production.batches)
        end = waiting.result(PATIENCE)
    hub.close()

    assert end.ending is not None
    assert end.ending.value()["result"] == "of production"


def test_a_reader_gets_no_event_of_the_other_database(stores: tuple[Store, Store]) -> None:
    staging, production = (Telling(store, "same-id") for store in stores)
    hub = OwnHub(stores[1])
    reader = hub.reader("same-id")
    with ThreadPoolExecutor() as threads:
        read = threads.submit(lambda: [each.envelope.value().get("n") for each in reader.events(PATIENCE)])
        eventually(lambda: stores[1].client.pubsub_numpat() + len(stores[1].client.pubsub_channels()) > 0, "it reads")
        staging.tell(1, 2, 3)
        production.tell(7)
        staging.end()
        production.end()
        numbers = read.result(PATIENCE)
    hub.close()

    assert numbers[0] == 7


def test_a_worker_hears_of_the_ends_in_its_own_database_alone(stores: tuple[Store, Store]) -> None:
    staging, production = (Telling(store, name) for store, name in zip(stores, ("run-a", "run-b"), strict=True))
    hub = OwnHub(stores[1])
    heard: list[str] = []
    watch = EndedWatch(hub, heard.append)
    eventually(lambda: len(stores[1].client.pubsub_channels()) == 1, "it watches")
    staging.end()
    production.end()
    eventually(lambda: heard, "an end is heard")
    watch.close()
    hub.close()

    assert heard == ["run-b"]
