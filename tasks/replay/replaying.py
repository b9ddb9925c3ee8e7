"""`umbel.replay`: checks whether today's code does what runs have recorded, step by step, without determinism rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ...orchestration.history.attempts import RecordedAttempt, attempts
from ...orchestration.history.rebuild import past_entries
from ...orchestration.model.errors import RunError
from ...orchestration.model.plan import Plan
from ...orchestration.store.verbs import Store
from ..client.handler import WorkflowHandler
from ..client.runs import RunSummary
from ..client.runtime import Runtime, current_runtime
from ..context.reuse import with_recorded
from ..events.event import loaded_event
from ..workflow.definition import WorkflowDefinition
from ..workflow.registry import Registered, Registry
from .doing_again import Compare, Replaying
from .report import Mismatch, NotReplayed, ReplayedAttempt, ReplayReport

#: A run: its id, its handler, or an entry of `umbel.runs()`.
ReplayedRun = str | WorkflowHandler | RunSummary


def replay(
    runs: ReplayedRun | Iterable[ReplayedRun],
    *,
    workflow: WorkflowDefinition | type[WorkflowDefinition] | None = None,
    compare: Compare = "events",
    runtime: Runtime | None = None,
) -> Any:
    """Execute each recorded attempt of some runs again, alone, in this process, and compare what it emits.

    An attempt gets its recorded inputs: event, `ctx.store`, answers, ends of child runs, sets of `collect_events`,
    values of `ctx.once`. What it returns, sends, streams, writes to the state and fails with is compared with the
    journal, as far as the journal has it. Resources are created again. Side effects that do not go through `ctx` do
    happen, including runs that a step starts with `Workflow.run()`: replay where that does no harm. Await the call;
    without an event loop it blocks and returns the report.

    *Promise:* no replayed run is changed, and nothing of it is published or dispatched. The journal is replayed on
    temporary keys, which are deleted afterwards; after a crash they expire within ten minutes.

    Args:
        runs: A run id, a handler, or several; `umbel.runs(…)` finds some.
        workflow: The code; by default what is loaded under the name of the run's workflow.
        compare: `events` compares all that an attempt emitted, `result` what it returned, failed with or waits for.
        runtime: The deployment; by default the one that umbel is configured with.

    Returns:
        A `ReplayReport`: `holds`, `equal`, `mismatches` with both values, and `not_replayed` with reasons. Attempts
        that cannot be read or executed are listed there instead of raising.

    Raises:
        WorkflowValidationError: The workflow is invalid.
        NotConfigured, StoreUnavailable: Redis is not configured or cannot be reached.
    """
    many = [runs] if isinstance(runs, ReplayedRun) else list(runs)
    replaying = _replay(
        current_runtime() if runtime is None else runtime,
        [run if isinstance(run, str) else run.run_id for run in many],
        workflow,
        compare,
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(replaying)
    return replaying


async def _replay(
    runtime: Runtime,
    run_ids: list[str],
    workflow: WorkflowDefinition | type[WorkflowDefinition] | None,
    compare: Compare,
) -> ReplayReport:
    registry = Registry()
    given = None if workflow is None else registry.add(workflow)
    equal, mismatches, not_replayed = 0, list[Mismatch](), list[NotReplayed]()
    with ThreadPoolExecutor(1, "umbel-replay") as threads:
        for run_id in run_ids:
            try:
                plan, recorded = await runtime.portal.run(_recorded(runtime.store, run_id))
                code = given or _loaded(runtime, registry, plan)
                _check_event_names(plan, code)
            except RunError as error:
                not_replayed.append(NotReplayed(ReplayedAttempt(run_id, 0, "", 0, ""), str(error)))
                continue
            replaying = Replaying(runtime.engine, plan, code, registry, compare, threads)
            for each in recorded:
                if each.outcome == "grouped":  # no code of the step was executed
                    continue
                at = ReplayedAttempt(run_id, each.seq, each.work.step, each.work.attempt, each.work.work_id)
                done = await replaying.attempt(each)
                equal += not (done.differences or done.reason)
                mismatches += (Mismatch(at, *difference) for difference in done.differences)
                if done.reason:
                    not_replayed.append(NotReplayed(at, done.reason))
    return ReplayReport(tuple(run_ids), equal, tuple(mismatches), tuple(not_replayed))


async def _recorded(store: Store, run_id: str) -> tuple[Plan, list[RecordedAttempt]]:
    """A run's plan and all its attempts. Read up front: a step may take longer than the keys of a rebuilt run live."""
    plan = await store.plan_of(run_id)
    found = [each async for each in attempts(store, run_id, await past_entries(store, run_id))]
    return plan, [replace(each, work=(await with_recorded(store, each.work))[0]) for each in found]


def _loaded(runtime: Runtime, registry: Registry, plan: Plan) -> Registered:
    found = runtime.registry.find(plan.workflow)
    if found is None:
        raise RunError(f"Workflow {plan.workflow!r} is not loaded here: import it, or give workflow=.")
    return registry.of(found.workflow)


def _check_event_names(plan: Plan, code: Registered) -> None:
    """Raise RunError if other code is used and recorded event classes are not loaded: names of classes are compared."""
    if code.name == plan.workflow:
        return
    for name in (name for step in plan.steps for name in step.accepts):
        if loaded_event(name) is None:
            module = name.rpartition(".")[0]
            raise RunError(
                f"The code is {code.name!r}, and {name!r}, an event of the recorded {plan.workflow!r}, is not loaded: "
                f"events are compared by the names of their classes, so a copy of the module {module!r} has to have "
                "this name too, in a folder of its own."
            )
