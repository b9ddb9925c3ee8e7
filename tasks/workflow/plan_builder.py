"""Turns a workflow into its `Plan`: the same steps as names and numbers, for the orchestrator."""

from __future__ import annotations

from ...orchestration.model.plan import Plan, StepPlan
from ..events.event import event_name
from ..steps.collect import Take
from ..steps.decorators import StepConfig
from ..steps.discovery import steps_of
from .definition import WorkflowDefinition
from .fan_out_levels import fan_out_levels

#: How many executions of one step a run may have dispatched at a time. The broker's queue is shared: a fan-out that put
#: all its work into the queue would delay every other run until that work is done.
MOST_AT_ONCE = 500


def build_plan(workflow: WorkflowDefinition, *, qualified: bool = False) -> Plan:
    """Build the plan of a workflow; equal workflows give equal plans.

    A fan-out step is `collected_by` the `collect` steps at the level of its stream, see module `fan_out_levels`.
    `@catch_error` routing is part of the plan, whether or not the workflow is validated.

    Args:
        workflow: The workflow; it need not be valid.
        qualified: Use the workflow's full name in task names, because another workflow has the same last part.
    """
    steps = steps_of(type(workflow))
    levels = fan_out_levels(steps)
    return Plan(
        workflow=workflow.workflow_name,
        start_event=event_name(workflow.start_event_class),
        stop_events=(event_name(workflow.stop_event_class),),
        steps=tuple(
            _step_plan(
                config,
                task=task_name(workflow.workflow_name, name, qualified=qualified),
                collected_by=tuple(sorted(levels[name].collects)) if name in levels else (),
            )
            for name, config in steps.items()
        ),
    )


def task_name(workflow_name: str, step_name: str, *, qualified: bool = False) -> str:
    """The Celery task name of a step: `Order.charge`, or `shop.flows.Order.charge` when qualified."""
    return f"{workflow_name if qualified else last_part(workflow_name)}.{step_name}"


def last_part(workflow_name: str) -> str:
    """A workflow's short name: `Order` for `shop.flows.Order`; a part after a colon (an agent's name) is kept whole."""
    path, colon, agent = workflow_name.partition(":")
    return f"{path.rpartition('.')[2]}{colon}{agent}"


def _step_plan(config: StepConfig, *, task: str, collected_by: tuple[str, ...]) -> StepPlan:
    return StepPlan(
        name=config.name,
        task=task,
        kind=config.kind,
        accepts=tuple(event_name(event) for event in config.accepted_events),
        take=config.cardinality.n if isinstance(config.cardinality, Take) else None,
        join_by=config.join_by,
        within_seconds=config.within_seconds,
        cancel_rest=config.event_parameters[0].cancel_rest,
        returns=tuple(event_name(event) for event in config.single_returns),
        fans_out=tuple(event_name(event) for event in config.list_returns),
        collected_by=collected_by,
        num_workers=min(config.num_workers, MOST_AT_ONCE),
        queue=config.queue,
        priority=config.priority,
        timeout_seconds=config.timeout_seconds,
        accepts_subclasses=config.accept_event_subclasses,
        recovers=config.recovers,
        max_recoveries=config.max_recoveries,
    )
