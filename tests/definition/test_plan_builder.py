"""What the orchestrator knows of a workflow, and which collect steps belong to which fan-out."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Annotated

from umbel.orchestration.model.plan import Plan, StepPlan
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import Event, StartEvent, StepFailedEvent, StopEvent
from umbel.tasks.retry.policy import retry_policy
from umbel.tasks.steps.collect import Collect, Take
from umbel.tasks.steps.decorators import catch_error, step
from umbel.tasks.workflow.plan_builder import build_plan, task_name


class A(Event):
    pass


class B(Event):
    pass


class C(Event):
    pass


class D(Event):
    pass


class Order(Workflow):
    @step(
        num_workers=2, queue="gpu", priority=3, timeout=1.5, accept_event_subclasses=True, retry_policy=retry_policy()
    )
    async def split(self, ev: StartEvent) -> list[A | B] | C | None: ...

    @step
    async def gather(self, evs: Annotated[list[A | B], Collect(Take(2))]) -> C: ...

    @step
    async def pair(self, first: C, second: C) -> StopEvent: ...

    @catch_error(for_steps=["split"], max_recoveries=2)
    async def rescue(self, ev: StepFailedEvent) -> StopEvent: ...


def joins(flow: type[Workflow]) -> dict[str, tuple[str, ...]]:
    plan = build_plan(flow(disable_validation=True))
    return {step.name: step.collected_by for step in plan.steps if step.fans_out}


def test_a_plan_holds_each_step_by_name_and_number() -> None:
    plan = build_plan(Order())
    here = __name__

    assert (plan.workflow, plan.start_event, plan.stop_events) == (
        f"{here}.Order",
        "umbel.StartEvent",
        ("umbel.StopEvent",),
    )
    assert plan.steps == (
        StepPlan(
            name="gather",
            task="Order.gather",
            kind="collect",
            accepts=(f"{here}.A", f"{here}.B"),
            take=2,
            returns=(f"{here}.C",),
        ),
        StepPlan(
            name="pair",
            task="Order.pair",
            kind="all_of",
            accepts=(f"{here}.C", f"{here}.C"),
            returns=("umbel.StopEvent",),
        ),
        StepPlan(
            name="rescue",
            task="Order.rescue",
            accepts=("umbel.StepFailedEvent",),
            returns=("umbel.StopEvent",),
            num_workers=1,
            recovers=("split",),
            max_recoveries=2,
        ),
        StepPlan(
            name="split",
            task="Order.split",
            accepts=("umbel.StartEvent",),
            returns=(f"{here}.C",),
            fans_out=(f"{here}.A", f"{here}.B"),
            collected_by=("gather",),
            num_workers=2,
            queue="gpu",
            priority=3,
            timeout_seconds=1.5,
            accepts_subclasses=True,
        ),
    )


def test_equal_workflows_have_equal_plans_that_survive_json() -> None:
    plan = build_plan(Order())

    assert build_plan(Order(timeout=1)).digest == plan.digest
    assert Plan.from_json(plan.to_json()) == plan


def test_a_stored_plan_keeps_the_digest_that_runs_in_flight_were_started_with() -> None:
    plan = Plan(
        workflow="shop.Order",
        start_event="umbel.StartEvent",
        stop_events=("umbel.StopEvent",),
        steps=(
            StepPlan(
                name="begin",
                task="Order.begin",
                accepts=("umbel.StartEvent",),
                fans_out=("shop.Item",),
                collected_by=("gather",),
            ),
            StepPlan(
                name="gather", task="Order.gather", kind="collect", accepts=("shop.Item",), returns=("shop.Left",)
            ),
            StepPlan(
                name="pair",
                task="Order.pair",
                kind="all_of",
                accepts=("shop.Left", "shop.Right"),
                returns=("umbel.StopEvent",),
            ),
        ),
    )

    assert plan.digest == "660f0c46d6bca21f7c7d"  # as commit 4a0e3c6 computes it
    assert Plan.from_json(plan.to_json()) == plan


def test_tasks_are_named_after_the_last_part_of_the_workflow_unless_that_is_taken() -> None:
    assert task_name("shop.flows.Order", "charge") == "Order.charge"
    assert task_name("orders", "charge") == "orders.charge"
    assert task_name("shop.flows.Order", "charge", qualified=True) == "shop.flows.Order.charge"
    assert build_plan(Order(), qualified=True).by_name["pair"].task == f"{__name__}.Order.pair"


def test_a_fan_out_joins_where_its_elements_lead() -> None:
    class Flow(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def one(self, ev: A) -> B | None: ...

        @step
        def two(self, ev: B) -> C: ...

        @step
        def gather(self, evs: list[C]) -> D: ...

        @step
        def also(self, evs: list[B]) -> None: ...

        @step
        def end(self, ev: D) -> StopEvent: ...

    assert joins(Flow) == {"split": ("also", "gather")}


def test_nested_fan_outs_join_at_the_innermost_level() -> None:
    class Flow(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def split_again(self, ev: A) -> list[B]: ...

        @step
        def gather(self, evs: list[B]) -> C: ...

        @step
        def gather_all(self, evs: list[C]) -> StopEvent: ...

    assert joins(Flow) == {"split": ("gather_all",), "split_again": ("gather",)}


def test_a_single_return_of_a_nested_fan_out_stays_at_the_outer_level() -> None:
    class Flow(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def split_again(self, ev: A) -> list[B] | C: ...

        @step
        def gather(self, evs: list[B]) -> None: ...

        @step
        def gather_all(self, evs: list[C]) -> StopEvent: ...

    assert joins(Flow) == {"split": ("gather_all",), "split_again": ("gather",)}


def test_a_collect_step_that_fans_out_opens_a_level_beside_the_one_it_closed() -> None:
    class Flow(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def regroup(self, evs: list[A]) -> list[B]: ...

        @step
        def gather(self, evs: list[B]) -> StopEvent: ...

    assert joins(Flow) == {"split": ("regroup",), "regroup": ("gather",)}


def test_a_fan_out_that_feeds_itself_joins_at_every_depth() -> None:
    class Flow(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[A]: ...

        @step
        def grow(self, ev: A) -> list[A] | B: ...

        @step
        def gather(self, evs: list[B]) -> B: ...

        @step
        def end(self, ev: B) -> StopEvent: ...

    assert joins(Flow) == {"begin": ("gather",), "grow": ("gather",)}


def test_parallel_fan_outs_do_not_share_joins() -> None:
    class Flow(Workflow):
        @step
        def split_a(self, ev: StartEvent) -> list[A]: ...

        @step
        def split_b(self, ev: StartEvent) -> list[B]: ...

        @step
        def gather_a(self, evs: list[A]) -> StopEvent: ...

        @step
        def gather_b(self, evs: list[B]) -> None: ...

    assert joins(Flow) == {"split_a": ("gather_a",), "split_b": ("gather_b",)}


def test_what_a_handler_returns_can_still_be_collected() -> None:
    class Flow(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def work(self, ev: A) -> None: ...

        @catch_error
        def rescue(self, ev: StepFailedEvent) -> B: ...

        @step
        def gather(self, evs: list[B]) -> StopEvent: ...

    assert joins(Flow) == {"split": ("gather",)}


def test_a_join_leads_on_only_where_all_its_parameters_can_be_filled() -> None:
    class Flow(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def work(self, ev: A) -> B: ...

        @step
        def inside(self, a: A, b: B) -> C: ...

        @step
        def gather(self, evs: list[C]) -> StopEvent: ...

        @step
        def aside(self, ev: StartEvent) -> list[B]: ...

    assert joins(Flow) == {"split": ("gather",), "aside": ()}


def test_subclasses_lead_on_where_they_are_accepted() -> None:
    class SmallB(B):
        pass

    class Flow(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[SmallB]: ...

        @step(accept_event_subclasses=True)
        def gather(self, evs: list[B]) -> StopEvent: ...

        @step
        def exact(self, evs: list[B]) -> None: ...

    assert joins(Flow) == {"split": ("gather",)}
