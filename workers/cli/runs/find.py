"""RUN: selects the run that a command is about, by its id, the beginning of its id, or `last`."""

from __future__ import annotations

from ....orchestration.connection.keys import check_run_id
from ....orchestration.inspection.run_list import MAX_LIMIT, RunQuery, list_runs, newest_runs
from ....orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ....orchestration.store.verbs import Store

#: Stands for the run that was started last.
LAST = "last"
#: How many runs are listed if the beginning of an id matches several.
_NAMED = 5


async def find_run(store: Store, text: str) -> str:
    """The id of a run.

    Args:
        store: The deployment.
        text: A whole id, its beginning, or `last`: the run that was started last, not counting child runs.

    Raises:
        RunNotFound: There is none.
        WorkflowRuntimeError: Several ids begin like this, or no id can.
        StoreUnavailable: Redis did not answer.
    """
    try:
        return (await store.run(check_run_id(text))).run_id
    except RunNotFound:
        if text == LAST:
            # The list is ordered by start, or by end for runs that have ended.
            newest = [run for run in await newest_runs(store, limit=MAX_LIMIT) if run.parent is None]
            if newest:
                return max(newest, key=lambda run: run.created_at).run_id
        page = await list_runs(store, RunQuery(search=text, limit=MAX_LIMIT))
        found = [each.run_id for each in page.runs if each.run_id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            named = ", ".join(found[:_NAMED]) + (" …" if len(found) > _NAMED else "")
            raise WorkflowRuntimeError(
                f"{len(found)} runs begin with {text!r}: {named}. Give more of the id."
            ) from None
        raise


async def whole_id(store: Store, text: str) -> str:
    """Like `find_run`, but a text that matches no run is returned as it is, to be reported with others."""
    try:
        return await find_run(store, text)
    except RunNotFound:
        return text
