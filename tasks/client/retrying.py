"""Taking up a run again that has failed, timed out or was cancelled."""

from __future__ import annotations

from ...orchestration.model.errors import NotRetried, RunError, RunNotFound
from ...orchestration.store.keys import check_run_id
from ...orchestration.store.replies import Applied, not_found
from .runtime import Runtime


def retry_run(runtime: Runtime, run_id: str) -> Applied:
    """Execute the run's unfinished steps anew; what has been done is kept. Its time-out counts from now.

    *Promise:* one script decides and revives, so of two callers at once one is told that the run is running. If the
    caller dies before it has rung the dispatches, the sweep rings them.

    Raises:
        NotRetried: The run is running, has completed, or has no unfinished step.
        RunNotFound: No such run, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    record = runtime.store.run(check_run_id(run_id))
    reply = runtime.store.revive(run_id, timeout_seconds=record.options.get("timeout"))
    if not isinstance(reply, Applied):
        raise _not_retried(run_id, reply)
    runtime.dispatcher.dispatch(runtime.store.plan_of(run_id), reply.dispatches)
    runtime.quota.take(run_id)
    return reply


def _not_retried(run_id: str, reason: str) -> RunError:
    if reason == "unknown":
        return RunNotFound(not_found(run_id))
    texts = {
        "running": f"Run {run_id!r} is running; there is nothing to retry. See it with: umbel show {run_id}",
        "completed": f"Run {run_id!r} has completed; there is nothing to retry. Start a new one: umbel start TARGET",
        "superseded": f"Run {run_id!r} cannot be retried: its handler has gone on to another run.",
        "nothing": f"Run {run_id!r} has no unfinished step that could be taken up again. Start a new one.",
    }
    return NotRetried(texts.get(reason, f"Run {run_id!r} cannot be retried: it is {reason}."))
