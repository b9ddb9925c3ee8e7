"""Bulk operations: finding, cancelling, resuming and deleting runs; tags and priorities of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import umbel
from umbel import Event, Runtime, StartEvent, StopEvent, Workflow, step
from umbel.errors import RunNotFound, WorkflowRuntimeError, WorkflowValidationError


class Counted(Workflow):
    @step
    async def count(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.n)


class Answer(Event):
    pass


class Asking(Workflow):
    @step
    async def ask(self, ctx: umbel.Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Answer)
        return StopEvent()


class Failing(Workflow):
    failing = True

    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        if Failing.failing:
            raise OSError("not yet")
        return StopEvent(result="at last")


def test_runs_are_found_by_their_tags_from_the_newest_on(runtime: Runtime) -> None:
    flow = Counted().with_options(tags=["import", "eu"])
    made = [flow.run(n=n) for n in range(3)]
    Counted().with_options(tags=["import"]).run(n=7).result(10)
    assert [handler.result(10) for handler in made] == [0, 1, 2]

    found = umbel.runs(tags=["eu", "import"], workflow=Counted)

    assert {run.run_id for run in found} == {handler.run_id for handler in made}
    assert {(run.status, run.tags, run.workflow) for run in found} == {
        ("completed", ("import", "eu"), Counted().workflow_name)
    }
    assert len(umbel.runs(tags=["import"], limit=2)) == 2
    assert umbel.runs(tags=["us"]) == []


def test_runs_are_found_by_status_workflow_and_time(runtime: Runtime) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    asking = Asking().with_options(tags=["by time"]).run()
    counted = Counted().with_options(tags=["by time"]).run(n=1)
    counted.result(10)

    def ids(**conditions: object) -> set[str]:
        found = umbel.runs(tags=["by time"], **conditions)  # type: ignore[arg-type]
        return {run.run_id for run in found}

    assert ids(status="running") == {asking.run_id}
    assert ids(status=["running", "completed"]) == {asking.run_id, counted.run_id}
    assert ids(workflow="Asking") == ids(workflow=Asking()) == ids(workflow=["Asking"]) == {asking.run_id}
    assert ids(started_after=before) == {asking.run_id, counted.run_id}
    assert ids(started_before=before) == ids(ended_before=before) == set()
    assert ids(ended_before=datetime.now(UTC) + timedelta(days=1)) == {counted.run_id}
    assert umbel.cancel_runs([asking.run_id]) == [asking.run_id]


def test_a_status_that_there_is_not_is_named(runtime: Runtime) -> None:
    with pytest.raises(WorkflowRuntimeError, match="Unknown status 'done'"):
        umbel.runs(status="done")


def test_running_runs_are_cancelled_and_others_are_left(runtime: Runtime) -> None:
    flow = Asking().with_options(tags=["to be cancelled"])
    running = {flow.run().run_id for _ in range(3)}
    ended = Counted().run(n=1)
    ended.result(10)

    cancelled = umbel.cancel_runs([*umbel.runs(tags=["to be cancelled"]), ended.run_id, "nobody"])

    assert set(cancelled) == running
    assert {run.status for run in umbel.runs(tags=["to be cancelled"])} == {"cancelled"}
    assert umbel.cancel_runs(running) == []


def test_failed_runs_are_resumed(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Failing().with_options(tags=["to be resumed"])
    for handler in [flow.run() for _ in range(2)]:
        with pytest.raises(OSError, match="not yet"):
            handler.result(10)
    monkeypatch.setattr(Failing, "failing", False)

    resumed = umbel.retry_runs(umbel.runs(tags=["to be resumed"], status="failed"))

    assert len(resumed) == 2
    assert [umbel.attach(run_id).result(10) for run_id in resumed] == ["at last"] * 2
    assert umbel.retry_runs(resumed) == []


def test_ended_runs_are_deleted_and_running_ones_are_left(runtime: Runtime) -> None:
    ended, running = Counted().run(n=1), Asking().run()
    ended.result(10)

    assert umbel.delete_runs([ended.run_id, running.run_id]) == [ended.run_id]

    with pytest.raises(RunNotFound):
        umbel.attach(ended.run_id)
    assert running.status() == "running"
    umbel.cancel_runs([running.run_id])
    assert umbel.delete_runs([running.run_id, ended.run_id]) == [running.run_id]


@pytest.mark.parametrize("tags", ["import", [""], ["x" * 101], [str(n) for n in range(33)], [7]])
def test_tags_that_cannot_be_kept_are_refused(tags: list[str]) -> None:
    with pytest.raises(WorkflowValidationError, match="tag"):
        Counted().with_options(tags=tags)


@pytest.mark.parametrize("priority", [-1, 256, "high", True])
def test_a_priority_that_celery_lacks_is_refused(priority: int) -> None:
    with pytest.raises(WorkflowValidationError, match="priority must be an integer from 0 to 255"):
        Counted().with_options(priority=priority)


def test_options_belong_to_the_copy_alone_and_add_up(runtime: Runtime) -> None:
    flow = Counted(timeout=7)
    both = flow.with_options(tags=["kept"]).with_options(priority=4)

    assert both.run(n=5).result(10) == 5
    assert flow.run_arguments()["options"] == {"timeout": 7, "verbose": False}
    assert both.run_arguments()["options"] == {"timeout": 7, "verbose": False, "tags": ("kept",), "priority": 4}
    assert both.run_arguments()["timeout_seconds"] == 7


def test_a_priority_is_that_of_the_steps_that_have_none(runtime: Runtime) -> None:
    class Placed(Workflow):
        @step(priority=9)
        async def begin(self, ev: StartEvent) -> Answer:
            return Answer()

        @step
        async def end(self, ev: Answer) -> StopEvent:
            return StopEvent(result="done")

    handler = Placed().with_options(priority=3).run()

    assert handler.result(10) == "done"
    plan = runtime.portal.call(runtime.store.plan_of(handler.run_id))
    assert {step.name: step.priority for step in plan.steps} == {"begin": 9, "end": 3}
