"""The child runs of a run as rows of a tree."""

from __future__ import annotations

from typing import Any

from ...orchestration.engine.children.listing import child_runs
from ...orchestration.inspection.run_rows import ListedRun, read_rows
from ...orchestration.sessions.names import session_of
from ..http.access import Access
from ..http.deployment import ServedDeployment
from .shapes import page_of_runs

#: Child runs of one run that are shown, with those below them.
CHILDREN = 200
#: Child runs that are asked for their own.
PARENTS = 50


async def child_rows(deployment: ServedDeployment, run_id: str, access: Access) -> list[dict[str, Any]]:
    """The child runs that the caller may see, each above its own, with its generation: 1 for the run's own."""
    rows: list[dict[str, Any]] = []
    left = [(child, 1) for child in await _begun_by(deployment, run_id, access)]
    while left and len(rows) < CHILDREN:
        child, generation = left.pop(0)
        [row] = page_of_runs([child], None, None, deployment.routes())["runs"]
        rows.append(row | {"generation": generation})
        if len(rows) <= PARENTS:
            left[:0] = [(each, generation + 1) for each in await _begun_by(deployment, child.run_id, access)]
    return rows


async def _begun_by(deployment: ServedDeployment, run_id: str, access: Access) -> list[ListedRun]:
    """The child runs of one run, the one started first at the top."""
    found: list[str] = []
    async for child in child_runs(deployment.store, run_id):
        if await access.allows("read", session_of(child)):
            found.append(child)
        if len(found) == CHILDREN:
            break
    rows = await read_rows(deployment.store, found) if found else ()
    return sorted(rows, key=lambda each: each.created_at)
