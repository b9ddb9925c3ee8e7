"""Mistakes are reported where the user is, say what to fix, and affect no run, neither this one nor another."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

import umbel
from support.eventually import eventually
from support.flows import everyday as flows
from support.flows import unfit
from support.processes.driving import LONG_LEASES, Deploy, Deployment
from umbel import (
    ConfigurationError,
    PayloadTooLarge,
    RunNotFound,
    Settings,
    StartEvent,
    StopEvent,
    StoreUnavailable,
    UnserializableValue,
    Workflow,
    WorkflowRuntimeError,
    step,
)
from umbel.tasks.client.runtime import Runtime, use_runtime
from umbel.workers.embedded.configuration import free_port


@pytest.fixture(scope="module")
def deployment(deploy_for_module: Deploy) -> Deployment:
    made = deploy_for_module(**LONG_LEASES, payload_warn_bytes=2_000, payload_max_bytes=8_000)
    made.worker("one", "support.flows.everyday", "support.flows.unfit", pool="threads").wait_ready()
    return made


@pytest.fixture(autouse=True)
def nothing_is_lost(deployment: Deployment) -> Any:
    """After each mistake the worker still works, and no run is left running."""
    yield
    assert deployment.start(flows.Chain, n=2).result(40) == 4
    eventually(lambda: deployment.store.runs(status="running") == [], "no run is left")


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port"])
def test_a_non_redis_url_is_refused_with_the_valid_forms(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"which is not a Redis URL .* Expected redis://") as refused:
        Runtime(Settings(redis_url=url))
    assert url in str(refused.value)


def test_a_redis_that_is_down_is_named_when_a_run_is_started_and_its_password_is_not() -> None:
    runtime = Runtime(Settings(redis_url=f"redis://:secret@127.0.0.1:{free_port()}/0"))
    runtime.store.patience_seconds = 0.2
    with pytest.raises(StoreUnavailable) as down:
        flows.Chain(runtime=runtime).start(n=1)
    assert re.fullmatch(
        r"Redis at redis://:\*\*\*@127\.0\.0\.1:\d+/0 did not answer within 0\.2 s while umbel was trying to start run "
        r"'\S+': .*\. Nothing is lost: start Redis or correct UMBEL_REDIS_URL, then try again\.",
        str(down.value),
    )
    runtime.close()


def test_a_wrong_password_is_said_to_be_one(durable_redis_url: str) -> None:
    wrong = re.sub(":[0-9a-f]+@", ":wrong@", durable_redis_url)
    runtime = Runtime(Settings(redis_url=wrong))
    with pytest.raises(ConfigurationError, match=r"refuses the credentials.*Correct user and password") as refused:
        flows.Chain(runtime=runtime).start(n=1)
    assert "wrong@" not in str(refused.value)
    runtime.close()


def test_what_a_start_event_cannot_carry_is_refused_before_the_run_begins(deployment: Deployment) -> None:
    before = len(deployment.store.runs(limit=1000))
    with pytest.raises(UnserializableValue, match=r"StartEvent cannot be sent: .*connection.*object"):
        deployment.start(flows.Chain, n=1, connection=object())
    assert len(deployment.store.runs(limit=1000)) == before


@pytest.mark.parametrize(
    ("workflow", "text"),
    [
        (
            unfit.InEvent,
            "support.flows.unfit.Anything cannot be sent: 'value.held[0]' holds a _thread.lock, which is not JSON.",
        ),
        (unfit.InResult, "umbel.StopEvent cannot be sent: 'result' holds a _thread.lock, which is not JSON."),
        (unfit.InStore, "cannot be written: 'handle' holds a _thread.lock, which is not JSON."),
        (unfit.Sent, "support.flows.unfit.Anything cannot be sent: 'value' holds a _thread.lock, which is not JSON."),
        (
            unfit.Published,
            "support.flows.unfit.Anything cannot be sent: 'value' holds a _thread.lock, which is not JSON.",
        ),
        (
            unfit.InFanOut,
            "support.flows.unfit.Anything cannot be sent: 'value' holds a _thread.lock, which is not JSON.",
        ),
    ],
)
def test_a_value_that_cannot_be_stored_fails_its_step_and_is_named(
    deployment: Deployment, workflow: type[Workflow], text: str
) -> None:
    with pytest.raises(UnserializableValue, match=re.escape(text)) as failed:
        deployment.start(workflow).result(40)
    assert "keep it in a Resource" in str(failed.value)


def test_a_payload_above_the_limit_is_refused_at_the_start(deployment: Deployment) -> None:
    expected = (
        r"support.flows.unfit.Sizeable cannot be sent: it has 9,\d\d\d bytes, "
        r"at most 8,000 are allowed \(payload_max_bytes\)"
    )
    with pytest.raises(PayloadTooLarge, match=expected):
        deployment.start(unfit.Large, text="x" * 9_000)


@pytest.mark.parametrize("place", ["event", "result", "store"])
def test_a_payload_above_the_limit_fails_its_step(deployment: Deployment, place: str) -> None:
    with pytest.raises(PayloadTooLarge, match=r"8,000"):
        deployment.start(unfit.Growing, size=9_000, place=place).result(40)


@pytest.mark.parametrize("place", ["event", "result", "store"])
def test_a_payload_above_the_warning_is_warned_of_and_carried(deployment: Deployment, place: str) -> None:
    handler = deployment.start(unfit.Growing, size=3_000, place=place)
    assert handler.result(40) == ("x" * 3_000 if place == "result" else 3_000)
    warning = "bytes, more than 2,000 (payload_warn_bytes)"
    eventually(lambda: warning in deployment.workers[0].log(), "the worker has warned")


def test_limits_are_a_megabyte_and_sixteen_unless_set() -> None:
    assert (Settings().payload_warn_bytes, Settings().payload_max_bytes) == (1 << 20, 16 << 20)


def test_a_missing_field_is_named_before_the_run_begins(deployment: Deployment) -> None:
    with pytest.raises(
        WorkflowRuntimeError,
        match=r"Failed creating a start event of type Ordered for workflow 'support.flows.unfit.Strict': "
        r"amount: Field required"
        r"\. Its fields: item, amount\.",
    ):
        deployment.start(unfit.Strict, item="tea")


def test_a_missing_field_in_a_step_fails_it_in_pydantics_words(deployment: Deployment) -> None:
    with pytest.raises(Exception, match=r"(?s)Field required") as failed:
        deployment.start(unfit.Strict, item="tea", amount=0).result(40)
    assert "amount" in str(failed.value)


def test_an_unknown_run_is_named(deployment: Deployment) -> None:
    with use_runtime(deployment.runtime), pytest.raises(RunNotFound, match="never-started"):
        umbel.attach("never-started")


def test_an_unknown_step_and_an_event_it_does_not_take_are_named(deployment: Deployment) -> None:
    handler = deployment.start(flows.Held)
    with pytest.raises(
        WorkflowRuntimeError, match=r"Step nowhere does not exist in workflow .* Its steps: before, behi"
    ):
        handler.send_event(flows.Number(n=1), step="nowhere")
    with pytest.raises(WorkflowRuntimeError, match=r"Step behind does not accept event of type Number. It accepts: Sq"):
        handler.send_event(flows.Number(n=1), step="behind")
    deployment.open_gate(handler.run_id)
    assert handler.result(40) == 1
    with pytest.raises(WorkflowRuntimeError, match="has ended; Number was not delivered"):
        handler.send_event(flows.Number(n=1))


def test_a_run_of_a_workflow_that_no_worker_can_load_continues_and_can_be_cancelled(deployment: Deployment) -> None:
    class Unshared(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    handler = deployment.start(Unshared)
    eventually(lambda: "parked" in deployment.journal_kinds(handler.run_id), "the work is parked")
    assert handler.status() == "running"
    assert handler.cancel()


def test_warnings_come_once_per_event_class_here_too(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "umbel"):
        for _ in range(2):
            assert deployment.start(unfit.Large, text="x" * 3_000).result(40) == 3_000
    assert [record.getMessage().count("payload_warn_bytes") for record in caplog.records] == [1]
