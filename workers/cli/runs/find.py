"""RUN: which run a command is about, by its id, the beginning of its id, or `last`."""

from __future__ import annotations

from ....orchestration.connection.keys import check_run_id
from ....orchestration.inspection.run_list import MAX_LIMIT, RunQuery, list_runs, newest_runs
from ....orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ....orchestration.store.verbs import Store

#: What stands for the run that was started last.
LAST = "last"
#: Runs that are named where the beginning of an id fits several.
_NAMED = 5


async def find_run(store: Store, text: str) -> str:
    """The id of a run.

    Args:
        store: The deployment.
        text: A whole id, its beginning, or `last`: the run that was started last, child runs aside.

    Raises:
        RunNotFound: There is none.
        WorkflowRuntimeError: Several begin like this, or no id can.
        StoreUnavailable: Redis did not answer.
    """
    try:
        return (await store.run(check_run_id(text))).run_id
    except RunNotFound:
        if text == LAST:
            # They are in the order in which they were started, or in which they have ended.
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
    """As `find_run`, but a text that names no run is returned as it is, to be reported with others."""
    try:
        return await find_run(store, text)
    except RunNotFound:
        return text
