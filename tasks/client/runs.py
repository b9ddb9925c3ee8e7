"""Operations on many runs: finding, cancelling, resuming and deleting them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from ...orchestration.connection.keys import check_run_id
from ...orchestration.inspection.selection import RunFilter, SelectedRun, selected
from ...orchestration.model.envelope import CANCELLED, ending
from ...orchestration.model.errors import NotRetried, RunNotFound
from ..values.class_names import qualified_name
from ..workflow.definition import WorkflowDefinition
from ..workflow.run_options import checked_tags
from .runtime import Runtime, current_runtime


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as it was when it was listed.

    Attributes:
        run_id: For `umbel.attach`.
        workflow: The workflow's name.
        status: running, completed, failed, cancelled or timed_out.
        tags: The tags it was started with, see `Workflow.with_options`.
        started_at, ended_at: By the clock of Redis, in UTC; `ended_at` is None while the run is running.
        parent: The run that started it as a child, if any.
    """

    run_id: str
    workflow: str
    status: str
    tags: tuple[str, ...]
    started_at: datetime
    ended_at: datetime | None
    parent: str | None


def runs(
    *,
    status: str | Iterable[str] = (),
    workflow: str | WorkflowDefinition | type[WorkflowDefinition] | Iterable[str] = (),
    tags: Iterable[str] = (),
    started_after: datetime | None = None,
    started_before: datetime | None = None,
    ended_before: datetime | None = None,
    limit: int | None = 100,
    runtime: Runtime | None = None,
) -> list[RunSummary]:
    """The newest runs that meet all conditions, by start time if they are running, else by end time. Blocks.

    Runs are searched from the newest to the oldest, at about 2 ms per 100 runs, until `limit` are found.

    Args:
        status: One or several of running, completed, failed, cancelled, timed_out.
        workflow: A workflow or its class, or one or several names; the last part of a name is enough.
        tags: Only runs that have all of these tags.
        started_after: Only runs that began later; a datetime without a time zone is local time.
        started_before: Only runs that began earlier.
        ended_before: Only runs that ended earlier.
        limit: At most this many; None for all.
        runtime: By default the one that umbel is configured with.

    Raises:
        WorkflowRuntimeError: There is no such status.
        NotConfigured, StoreUnavailable: There is no Redis to ask.
    """
    runtime = current_runtime() if runtime is None else runtime
    wanted = RunFilter(
        statuses=(status,) if isinstance(status, str) else tuple(status),
        workflows=_names(workflow),
        tags=checked_tags(tags),
        started_after=_milliseconds(started_after),
        started_before=_milliseconds(started_before),
        ended_before=_milliseconds(ended_before),
    )
    return runtime.portal.call(_found(runtime, wanted, limit))


def cancel_runs(runs: Iterable[str | RunSummary], *, runtime: Runtime | None = None) -> list[str]:
    """Cancel those of the runs that are running, and return their ids. Blocks.

    *Promise:* each run is ended by one script. A crash in between leaves the remaining runs unchanged, and repeating
    the call ends them.

    Raises:
        WorkflowRuntimeError: One of the ids is not a valid run id.
        StoreUnavailable: Redis did not answer.
    """
    runtime = current_runtime() if runtime is None else runtime

    async def cancel(run_id: str) -> bool:
        return await runtime.engine.finish(run_id, "cancelled", ending(CANCELLED))

    return runtime.portal.call(_each(runs, cancel))


def retry_runs(runs: Iterable[str | RunSummary], *, runtime: Runtime | None = None) -> list[str]:
    """Resume those of the runs that failed, were cancelled or timed out, and return their ids. Blocks.

    Unfinished steps are executed again; finished steps are kept. *Promise:* as for `cancel_runs`.

    Raises:
        WorkflowRuntimeError: One of the ids is not a valid run id.
        StoreUnavailable: Redis did not answer.
    """
    runtime = current_runtime() if runtime is None else runtime

    async def retry(run_id: str) -> bool:
        try:
            await runtime.engine.retry(run_id)
        except NotRetried:
            return False
        return True

    return runtime.portal.call(_each(runs, retry))


def delete_runs(runs: Iterable[str | RunSummary], *, runtime: Runtime | None = None) -> list[str]:
    """Delete those of the runs that have ended, with everything stored for them, and return their ids. Blocks.

    State that a run shares with others is deleted with the newest of them. *Promise:* as for `cancel_runs`. Deleted
    runs cannot be restored.

    Raises:
        WorkflowRuntimeError: One of the ids is not a valid run id.
        StoreUnavailable: Redis did not answer.
    """
    runtime = current_runtime() if runtime is None else runtime

    async def delete(run_id: str) -> bool:
        await runtime.store.run(run_id)  # raises if there is no such run
        return await runtime.store.purge(run_id)

    return runtime.portal.call(_each(runs, delete))


async def _each(runs: Iterable[str | RunSummary], act: Callable[[str], Awaitable[bool]]) -> list[str]:
    """Act on each run and return the ids of those for which it was done; runs that do not exist are skipped."""
    done = []
    for run in [check_run_id(run.run_id if isinstance(run, RunSummary) else run) for run in runs]:
        try:
            if await act(run):
                done.append(run)
        except RunNotFound:
            continue
    return done


async def _found(runtime: Runtime, wanted: RunFilter, limit: int | None) -> list[RunSummary]:
    found: list[RunSummary] = []
    async with aclosing(selected(runtime.store, wanted)) as walk:
        async for each in walk:
            if limit is not None and len(found) >= limit:
                break
            found.append(_summary(each))
    return found


def _summary(found: SelectedRun) -> RunSummary:
    run = found.run
    ended_at = None if run.ended_at is None else _instant(run.ended_at)
    return RunSummary(run.run_id, run.workflow, run.status, found.tags, _instant(run.created_at), ended_at, run.parent)


def _names(workflow: str | WorkflowDefinition | type[WorkflowDefinition] | Iterable[str]) -> tuple[str, ...]:
    if isinstance(workflow, str):
        return (workflow,)
    if isinstance(workflow, WorkflowDefinition):
        return (workflow.workflow_name,)
    if isinstance(workflow, type):
        return (qualified_name(workflow),)
    return tuple(workflow)


def _milliseconds(instant: datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
