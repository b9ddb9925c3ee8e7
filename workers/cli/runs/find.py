"""RUN: which run a command is about, by its id, the beginning of its id, or `last`."""

from __future__ import annotations

from ....orchestration.connection.keys import check_run_id
from ....orchestration.inspection.run_list import MAX_LIMIT, RunQuery, list_runs, newest_runs
from ....orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ....orchestration.store.verbs import Store

#: What stands for the newest run.
LAST = "last"
#: Runs that are named where the beginning of an id fits several.
_NAMED = 5


async def find_run(store: Store, text: str) -> str:
    """The id of a run.

    Args:
        store: The deployment.
        text: A whole id, its beginning, or `last`: the run that was started or has ended last.

    Raises:
        RunNotFound: There is none.
        WorkflowRuntimeError: Several begin like this, or no id can.
        StoreUnavailable: Redis did not answer.
    """
    try:
        return (await store.run(check_run_id(text))).run_id
    except RunNotFound:
        if text == LAST and (newest := await newest_runs(store, limit=1)):
            return newest[0].run_id
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
