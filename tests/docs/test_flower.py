"""Flower on a real worker: every step of a run is shown by its name, with its state, each attempt separately."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from support import TESTS
from support.docs.served import UMBEL, FlowerApi, Served
from support.eventually import eventually
from support.flows import flower as flower_flows
from umbel import Settings
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

LOGIN = "florist:s3cret"


@dataclass(frozen=True)
class Watched:
    """Two runs that have ended, as Flower saw them."""

    api: FlowerApi
    worker: Served
    order_id: str
    tasks: dict[str, dict[str, Any]]

    def of(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the tasks with this name, by start time."""
        found = [(task_id, task) for task_id, task in self.tasks.items() if task["name"] == name]
        return sorted(found, key=lambda each: float(each[1]["started"]))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A worker and a Flower, after two runs have ended."""
    folder = tmp_path_factory.mktemp("flower")
    port = free_port()
    with Supervisor() as supervisor, EmbeddedRedis.temporary(supervisor=supervisor) as redis:
        settings = Settings(redis_url=redis.url, sweep_seconds=0.1)
        environment = {
            "UMBEL_REDIS_URL": redis.url,
            "UMBEL_SWEEP_SECONDS": str(settings.sweep_seconds),
            "PYTHONPATH": str(TESTS),
        }
        served = [UMBEL, "worker", "support.flows.flower", "-E", "--concurrency", "2"]
        watching = [UMBEL, "flower", "--port", str(port)]
        api = FlowerApi(port, LOGIN)
        with (
            Served(supervisor, folder, "worker", served, environment) as worker,
            Served(supervisor, folder, "flower", watching, environment | {"FLOWER_BASIC_AUTH": LOGIN}),
        ):
            worker.says(" ready.")
            api.wait_for_worker()
            with closing(Runtime(settings)) as runtime:
                order = flower_flows.Order(runtime=runtime).start(names=["cup", "pot", "tea"])
                refund = flower_flows.Refund(runtime=runtime).start()
                assert order.result(timeout=40) == ["cup", "pot", "tea"]
                with pytest.raises(flower_flows.CardDeclined):
                    refund.result(timeout=40)

            def all_have_ended() -> dict[str, dict[str, Any]] | None:
                tasks: dict[str, dict[str, Any]] = api.json("/api/tasks")
                ended = [task for task in tasks.values() if task["state"] in ("SUCCESS", "RETRY", "FAILURE")]
                return tasks if len(ended) == 9 else None

            tasks = eventually(all_have_ended, "Flower shows nine tasks that have ended")
            yield Watched(api, worker, order.run_id, tasks)


def test_flower_requires_its_login(watched: Watched) -> None:
    stranger, impostor = FlowerApi(watched.api.port, None), FlowerApi(watched.api.port, "florist:guess")

    for path in ("/api/tasks", "/api/workers", "/tasks", "/"):
        assert stranger.status(path) == 401, path
        assert impostor.status(path) == 401, path
        assert watched.api.status(path) == 200, path


def test_every_step_of_a_run_is_shown_by_name(watched: Watched) -> None:
    of_the_order = Counter(task["name"] for task in watched.tasks.values() if watched.order_id in task["args"])

    assert of_the_order == {"Order.split": 1, "Order.pack": 3, "Order.bundle": 1, "Order.charge": 2}
    assert Counter(watched.api.json("/api/task/types")["task-types"]) == Counter([*of_the_order, "Refund.pay"])


def test_a_step_that_worked_is_shown_with_what_it_did_its_worker_and_its_runtime(watched: Watched) -> None:
    what = {"Order.split": "fanned out", "Order.pack": "returned", "Order.bundle": "returned"}
    for name, did in what.items():
        for _, task in watched.of(name):
            assert task["state"] == "SUCCESS"
            assert task["result"] == f"'attempt 1 {did}'"
            assert task["runtime"] > 0
            assert task["received"] <= task["started"] <= task["succeeded"]
            assert f" {task['worker']} " in watched.worker.log()


def test_each_attempt_is_a_task_of_its_own_with_a_common_id(watched: Watched) -> None:
    (first_id, first), (second_id, second) = watched.of("Order.charge")

    assert (first["state"], second["state"]) == ("RETRY", "SUCCESS")
    assert "attempt 1: support.flows.flower.CardDeclined: limit reached" in first["exception"]
    assert 'raise CardDeclined("limit reached")' in first["traceback"]
    assert second["result"] == "'attempt 2 returned'"
    assert second["runtime"] > 0
    work_id = first_id.removesuffix("-1")
    assert second_id == f"{work_id}-2"
    assert first["args"] == f"({watched.order_id}, {work_id}, 1)"
    assert second["args"] == f"({watched.order_id}, {work_id}, 2)"


def test_a_step_that_fails_finally_is_shown_as_failed(watched: Watched) -> None:
    (_, first), (_, last) = watched.of("Refund.pay")

    assert (first["state"], last["state"]) == ("RETRY", "FAILURE")
    assert "attempt 2: support.flows.flower.CardDeclined: no such card" in last["exception"]
    assert 'raise CardDeclined("no such card")' in last["traceback"]


def test_payloads_are_not_shown(watched: Watched) -> None:
    assert "tea" not in watched.api.text("/api/tasks")


def test_the_worker_and_its_queue_are_shown(watched: Watched) -> None:
    # A refresh joins an inspection in progress, and Flower's first one may have begun before the worker started.
    workers = eventually(lambda: watched.api.json("/api/workers?refresh=1"), "Flower shows the worker")
    [(name, shown)] = workers.items()

    assert f" {name} " in watched.worker.log()
    assert "Order.charge" in shown["registered"]
    assert [queue["name"] for queue in shown["active_queues"]] == ["umbel"]
    assert watched.api.json("/api/queues/length") == {"active_queues": [{"name": "umbel", "messages": 0}]}


def test_the_login_of_earlier_examples_is_refused_where_others_can_reach_it() -> None:
    environment = os.environ | {"FLOWER_BASIC_AUTH": "umbel:umbel", "UMBEL_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run([UMBEL, "flower", "--address=0.0.0.0"], env=environment, capture_output=True, text=True)

    assert done.returncode == 1
    assert "the login that earlier examples contained" in done.stderr
    assert "Traceback" not in done.stderr
