"""`/ready` and `/metrics`, for operators and their monitoring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.http.flows import Greet
from support.store.blocking import store_of
from umbel import Settings, StartEvent, StopEvent, Workflow, step
from umbel.server import WorkflowServer
from umbel.server.operations.routes import BROKER_SECONDS, METRICS_SECONDS
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.transport.quarantine import set_aside

Ask = Callable[..., httpx.AsyncClient]


class Unserved(Workflow):
    """A workflow whose code no worker has."""

    @step
    async def never(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


class Counted(Greet):
    """A workflow that no other test runs."""


def samples(page: str) -> dict[str, float]:
    """Parse a page as Prometheus does: `name{value,value}`, with values ordered by label name -> value."""
    return {
        f"{each.name}{{{','.join(value for _, value in sorted(each.labels.items()))}}}": each.value
        for family in text_string_to_metric_families(page)
        for each in family.samples
    }


async def answers(client: httpx.AsyncClient, path: str, expected: object) -> None:
    """Poll until the response is as expected: workers announce what they serve with every sweep."""
    async with asyncio.timeout(30):
        while (await client.get(path)).json() != expected:
            await asyncio.sleep(0.05)


async def figures(client: httpx.AsyncClient) -> dict[str, float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples(answer.text)


async def counted(client: httpx.AsyncClient, sample: str) -> dict[str, float]:
    """Return the metrics once they include this sample: a worker sends its histograms with its heartbeat."""
    async with asyncio.timeout(30):
        while sample not in (found := await figures(client)):
            await asyncio.sleep(0.05)
    return found


# -- ready -------------------------------------------------------------------------------------------------------------


async def test_a_server_whose_workflows_are_all_served_is_ready(runtime: Any, asking: Ask) -> None:
    server = WorkflowServer(runtime=runtime)
    server.add_workflow("greet", Greet())
    client = asking(server)
    await client.post("/workflows/greet/run", json={})  # a local deployment has the code of workflows that were run

    await answers(client, "/ready", {"status": "ready", "problems": []})
    assert (await client.get("/ready")).status_code == 200


async def test_a_workflow_without_a_live_worker_is_named(runtime: Any, asking: Ask) -> None:
    server = WorkflowServer(runtime=runtime)
    server.add_workflow("greet", Greet())
    server.add_workflow("orders", Unserved())
    client = asking(server)
    await client.post("/workflows/greet/run", json={})

    problem = f"No live worker serves 'orders' ({Unserved().workflow_name}): start one with `umbel worker`."
    await answers(client, "/ready", {"status": "not ready", "problems": [problem]})
    assert (await client.get("/ready")).status_code == 503


async def test_an_unreachable_redis_is_reported_soon_and_without_its_password(asking: Ask) -> None:
    settings = Settings(redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    away = Runtime(settings)
    client = asking(WorkflowServer(runtime=away))

    answer = await client.get("/ready")

    assert answer.status_code == 503
    assert "did not answer within 0.8 s" in answer.json()["problems"][0]
    assert "hunter2" not in answer.text
    assert (await client.get("/health")).status_code == 200  # this process is healthy; Redis is not
    away.close()


async def test_a_redis_that_is_silent_for_a_while_makes_a_server_not_ready_and_no_error(asking: Ask) -> None:
    with EmbeddedRedis.temporary() as redis:
        silent = Runtime(Settings(redis_url=redis.url))
        client = asking(WorkflowServer(runtime=silent))
        await answers(client, "/ready", {"status": "ready", "problems": []})
        store_of(silent).client.client_pause(7_000)
        statuses = {(await client.get("/ready")).status_code for _ in range(3)}
        await answers(client, "/ready", {"status": "ready", "problems": []})
        silent.close()

    assert statuses == {503}


async def test_a_redis_that_is_full_is_reported_and_not_that_workers_are_dead(asking: Ask) -> None:
    with EmbeddedRedis.temporary() as redis:
        runtime = Runtime(Settings(redis_url=redis.url))
        server = WorkflowServer(runtime=runtime)
        server.add_workflow("orders", Unserved())
        client = asking(server)
        assert "No live worker serves 'orders'" in (await client.get("/ready")).json()["problems"][0]
        store_of(runtime).client.config_set("maxmemory", 1)

        answer = await client.get("/ready")

        assert answer.status_code == 503
        [problem] = answer.json()["problems"]
        assert "is full: its memory has reached maxmemory" in problem
        assert "raise maxmemory" in problem
        [shown, *others] = (await client.get("/console/overview")).json()["problems"]
        assert "is full: its memory has reached maxmemory" in shown["text"]
        assert not [each for each in others if "worker" in each["text"]]
        runtime.close()


async def test_a_stopped_server_is_not_ready(runtime: Any, asking: Ask) -> None:
    server = WorkflowServer(runtime=runtime)
    client = asking(server)
    await server.stop()

    assert (await client.get("/ready")).status_code == 503


# -- metrics -----------------------------------------------------------------------------------------------------------


async def test_a_run_is_in_the_figures_of_every_replica(runtime: Any, asking: Ask) -> None:
    server = WorkflowServer(runtime=runtime)
    server.add_workflow("counted", Counted())
    one, other = asking(server), asking()
    before = await figures(other)
    took = f"greet,{Counted().workflow_name}"

    assert (await one.post("/workflows/counted/run", json={})).status_code == 200

    assert (await figures(other))["umbel_runs{completed}"] - before["umbel_runs{completed}"] == 1
    after = await counted(other, f"umbel_step_seconds_count{{{took}}}")
    assert after[f"umbel_step_seconds_count{{{took}}}"] == after[f"umbel_step_seconds_bucket{{+Inf,{took}}}"] == 1
    assert after["umbel_queue_wait_seconds_count{umbel}"] >= 1
    assert after["umbel_workers{live}"] == 1
    assert set(await figures(one)) == set(await figures(other))


async def test_every_figure_is_there_from_the_beginning(client: httpx.AsyncClient) -> None:
    page = (await client.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(page)}

    assert all(family.documentation for family in families.values())
    found = await figures(client)
    for counter in ("retries", "dead_letters", "losses", "lease_expiries", "redispatches", "stale_commits"):
        assert f"umbel_{counter}_total{{}}" in found
    assert {f"umbel_absorbed_duplicates_total{{{kind}}}" for kind in ("dispatch", "send", "commit")} <= set(found)
    assert {"umbel_parked_steps{}", "umbel_sweep_lag_seconds{}", "umbel_runs{running}"} <= set(found)


async def test_open_streams_of_this_process_are_counted(runtime: Any, asking: Ask) -> None:
    server = WorkflowServer(runtime=runtime)
    server.deployment.count_reader(1)

    assert (await figures(asking(server)))["umbel_stream_readers{}"] == 1


async def test_messages_in_quarantine_are_counted_by_queue(runtime: Any, client: httpx.AsyncClient) -> None:
    prefix = f"{runtime.settings.key_prefix}:broker:"
    set_aside(store_of(runtime).client, prefix, "elsewhere", b"nonsense", "expected JSON")

    assert (await figures(client))["umbel_quarantined_messages_total{elsewhere}"] == 1
    store_of(runtime).client.delete(f"{prefix}umbel:quarantine", f"{prefix}umbel:quarantine:elsewhere")


async def test_payloads_are_in_no_figure(client: httpx.AsyncClient) -> None:
    await client.post("/workflows/greet/run", json={"start_event": {"name": "a-secret-name"}})

    assert "a-secret-name" not in (await client.get("/metrics")).text


# -- authorization -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ready", "/metrics"])
async def test_it_takes_the_token_unless_the_path_is_made_public(runtime: Any, asking: Ask, path: str) -> None:
    closed, opened = (
        WorkflowServer(runtime=runtime, token="t"),
        WorkflowServer(runtime=runtime, token="t", public_paths=["/health", path]),
    )

    assert (await asking(closed).get(path)).status_code == 401
    assert (await asking(closed).get(path, headers={"authorization": "Bearer t"})).status_code == 200
    assert (await asking(opened).get(path)).status_code == 200
    assert (await asking(opened).get("/workflows")).status_code == 401


async def test_the_hook_is_asked_about_them_in_words_of_their_own(runtime: Any, asking: Ask) -> None:
    asked: list[tuple[str, str | None]] = []

    def authorize(principal: object, action: str, run_id: str | None) -> bool:
        asked.append((action, run_id))
        return action == "ready"

    client = asking(WorkflowServer(runtime=runtime, authorize=authorize))

    assert (await client.get("/ready")).status_code == 200
    assert (await client.get("/metrics")).status_code == 403
    assert asked == [("ready", None), ("metrics", None)]


async def test_metrics_are_refused_soon_while_redis_is_silent_and_come_back_with_it(asking: Ask) -> None:
    with EmbeddedRedis.temporary() as redis:
        runtime = Runtime(Settings(redis_url=redis.url))
        http = asking(WorkflowServer(runtime=runtime))
        assert (await http.get("/metrics")).status_code == 200
        store_of(runtime).client.client_pause(9_000)

        began = time.monotonic()
        answer = await http.get("/metrics")

        assert answer.status_code == 503
        assert "did not answer" in answer.json()["detail"]
        assert time.monotonic() - began < METRICS_SECONDS + BROKER_SECONDS + 1
        async with asyncio.timeout(30):
            while (await http.get("/metrics")).status_code != 200:
                await asyncio.sleep(0.1)
        runtime.close()
