"""umbel inside an existing Celery app, served by the stock `celery worker`."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator
from types import ModuleType

import pytest
from celery import Celery, Task

import umbel
from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import Deploy, Deployment
from umbel import ConfigurationError, NotConfigured, Settings, StepTimeoutError
from umbel.tasks.client.runtime import Runtime, set_default_runtime


@pytest.fixture(scope="module")
def deployment(deploy_for_module: Deploy) -> Deployment:
    made = deploy_for_module()
    options = ["--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO", "--hostname", "existing@%h"]
    made.launch("existing", "celery", "-A", "support.programs.existing_app", "worker", *options).wait_ready()
    return made


@pytest.fixture(scope="module")
def existing(deployment: Deployment) -> Iterator[ModuleType]:
    """The worker's module, loaded here as a client loads it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("UMBEL_REDIS_URL", "UMBEL_KEY_PREFIX"):
            patch.setenv(name, deployment.environment[name])
        module = importlib.import_module("support.programs.existing_app")
    yield module
    set_default_runtime(None)
    module.installation.close()
    module.app.close()


def test_a_workflow_runs_in_the_worker_of_an_app_that_was_there_before(existing: ModuleType) -> None:
    assert existing.Doubled().start(n=21).result(timeout=40) == 42


def test_ordinary_tasks_run_beside_it_and_keep_their_results(existing: ModuleType) -> None:
    run = existing.Doubled().start(n=4)
    assert existing.add.delay(2, 3).get(timeout=40) == 5
    assert run.result(timeout=40) == 8


def test_an_ordinary_task_may_start_a_workflow_and_wait_for_it(existing: ModuleType) -> None:
    assert existing.double_by_workflow.delay(8).get(timeout=40) == 16


def test_the_steps_go_to_the_apps_own_default_queue(deployment: Deployment, existing: ModuleType) -> None:
    assert existing.installation.settings.queue == "celery"
    run = existing.Doubled().start(n=1)
    assert run.result(timeout=40) == 2
    assert {each.worker for each in deployment.executions(run.run_id)} == {f"existing@{socket.gethostname()}"}
    assert ".> celery " in deployment.workers[0].log()


def test_installing_changes_no_setting_of_the_app(existing: ModuleType) -> None:
    assert existing.before == existing.after
    assert existing.settings_of(existing.app) == existing.before
    assert existing.add.acks_late is False
    assert existing.app.tasks["Doubled.ask"].acks_late is True


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            {"task_always_eager": True},
            "umbel cannot be installed on this Celery app: task_always_eager executes tasks in the caller, past broker "
            "and leases; set it to False.",
        ),
        (
            {"accept_content": ["yaml"]},
            "umbel cannot be installed on this Celery app: accept_content lacks 'json', the format of "
            "umbel's messages; add it.",
        ),
        (
            {"task_protocol": 1},
            "umbel cannot be installed on this Celery app: task_protocol 1 has no message headers; use 2.",
        ),
    ],
)
def test_an_app_that_would_break_umbel_is_refused_with_the_reason(
    durable_redis_url: str, setting: dict[str, object], text: str
) -> None:
    app = Celery("refused", broker=durable_redis_url, set_as_current=False)
    app.conf.update(setting)
    with pytest.raises(ConfigurationError) as refused:
        umbel.install(app, flows.Chain, settings=Settings(redis_url=durable_redis_url))
    assert str(refused.value) == text


def test_an_app_without_redis_needs_the_url_of_the_state() -> None:
    app = Celery("rabbit", broker="amqp://guest:secret@localhost//", set_as_current=False)
    with pytest.raises(NotConfigured, match="neither UMBEL_REDIS_URL nor the app's broker") as refused:
        umbel.install(app, flows.Chain, settings=Settings())
    assert "secret" not in str(refused.value)


def test_celerys_hard_time_limit_fails_a_step_of_the_asyncio_pool_instead_of_repeating_it(
    deploy_for_module: Deploy,
) -> None:
    made = deploy_for_module()
    made.launch(
        "limited", "celery", "-A", "support.programs.time_limited_app", "worker", "--loglevel", "INFO"
    ).wait_ready()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("UMBEL_REDIS_URL", "UMBEL_KEY_PREFIX"):
            patch.setenv(name, made.environment[name])
        module = importlib.import_module("support.programs.time_limited_app")
    try:
        with pytest.raises(StepTimeoutError, match="hard time limit"):
            module.Endless(timeout=30).start().result(timeout=40)
    finally:
        set_default_runtime(None)
        module.installation.close()
        module.app.close()


def test_task_compression_and_task_routes_of_the_app_are_followed(deploy: Deploy) -> None:
    deployment = deploy()
    for name in ("celery", "side", "named"):
        options = ["--pool", "solo", "--loglevel", "INFO", "--hostname", f"{name}@%h", "--queues", name]
        deployment.launch(name, "celery", "-A", "support.programs.routed_app", "worker", *options)
    for worker in deployment.workers:
        worker.wait_ready()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("UMBEL_REDIS_URL", "UMBEL_KEY_PREFIX"):
            patch.setenv(name, deployment.environment[name])
        module = importlib.import_module("support.programs.routed_app")
    try:
        run = module.Routed().start(n=4)
        assert run.result(timeout=40) == 8
        found = {each.step: each.worker.partition("@")[0] for each in deployment.executions(run.run_id)}
        assert found == {"ask": "celery", "answer": "side", "last": "named"}
    finally:
        set_default_runtime(None)
        module.installation.close()
        module.app.close()


def test_a_route_without_a_queue_is_refused_with_the_reason() -> None:
    app = Celery("exchanges", broker="redis://127.0.0.1:1", set_as_current=False)
    app.conf.task_routes = {"*": {"exchange": "all", "routing_key": "all"}}
    with pytest.raises(ConfigurationError, match=r"task_routes send 'Chain\.\w+' to .*, which names no queue"):
        umbel.install(app, flows.Chain, settings=Settings(redis_url="redis://127.0.0.1:1"))
    set_default_runtime(None)


def test_a_task_class_that_steps_are_not_called_through_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class WithContext(Task):  # type: ignore[misc]  # Celery is untyped
        def __call__(self, *args: object, **kwargs: object) -> object:
            return super().__call__(*args, **kwargs)

    settings = Settings(redis_url="redis://127.0.0.1:1")
    for name, task_cls, warnings in (("plain", None, 0), ("flask", WithContext, 1)):
        caplog.clear()
        app = Celery(name, broker=settings.redis_url, set_as_current=False, task_cls=task_cls)
        umbel.install(app, flows.Chain, settings=settings).close()
        said = [each.getMessage() for each in caplog.records if each.name == "umbel.install"]
        assert len(said) == warnings
        assert all("WithContext" in text for text in said)
    set_default_runtime(None)


def test_a_message_of_another_deployment_on_the_same_queue_is_named_in_the_log(deploy: Deploy) -> None:
    deployment = deploy()
    worker = deployment.worker("one", pool="solo").wait_ready()
    elsewhere = deployment.settings.model_copy(update={"key_prefix": f"{deployment.settings.key_prefix}:other"})
    other = Runtime(elsewhere, app=deployment.runtime.app)  # the same broker and queue, but its own runs
    try:
        run = flows.Chain(runtime=other, timeout=None).start(n=1)
        eventually(
            lambda: f"is of run {run.run_id}, which is not in this deployment's Redis" in worker.log(), "it says so"
        )
    finally:
        other.close()
