"""The child runs of a run as rows of a tree."""

from __future__ import annotations

from typing import Any

from ...orchestration.engine.children.listing import child_runs
from ...orchestration.inspection.run_rows import ListedRun, read_rows
from ...orchestration.sessions.names import session_of
from ..http.access import Access
from ..http.deployment import ServedDeployment
from .shapes import page_of_runs

#: Maximum rows: the child runs of a run, with their own child runs.
CHILDREN = 200
#: Maximum child runs for which it is asked whether the caller may see them.
ASKED = 5_000


async def child_rows(deployment: ServedDeployment, run_id: str, access: Access) -> tuple[list[dict[str, Any]], bool]:
    """The child runs that the caller may see, each followed by its own, with its generation: 1 for the run's own.

    Returns:
        The first `CHILDREN` rows, and whether there may be more.
    """
    return await _Tree(deployment, access).rows_below(run_id)


class _Tree:
    def __init__(self, deployment: ServedDeployment, access: Access) -> None:
        self._deployment, self._access = deployment, access
        self._may_ask = ASKED

    async def rows_below(self, run_id: str) -> tuple[list[dict[str, Any]], bool]:
        """See `child_rows`."""
        rows: list[dict[str, Any]] = []
        left = [(child, is_parent, 1) for child, is_parent in await self._begun_by(run_id)]
        while left and len(rows) < CHILDREN:
            child, is_parent, generation = left.pop(0)
            [row] = page_of_runs([child], None, None, self._deployment.routes())["runs"]
            rows.append(row | {"generation": generation})
            if is_parent:
                below = await self._begun_by(child.run_id)
                left[:0] = [(each, is_parent, generation + 1) for each, is_parent in below]
        return rows, bool(left) or self._may_ask <= 0

    async def _begun_by(self, run_id: str) -> list[tuple[ListedRun, bool]]:
        """The child runs of one run, in the order of their starts, and whether each has child runs of its own."""
        store = self._deployment.store
        found: list[str] = []
        if self._may_ask > 0:
            async for child in child_runs(store, run_id):
                self._may_ask -= 1
                if await self._access.allows("read", session_of(child)):
                    found.append(child)
                if len(found) > CHILDREN or self._may_ask <= 0:
                    break
        if not found:
            return []
        rows = sorted(await read_rows(store, found), key=lambda each: each.created_at)
        asked = (("EXISTS", store.locate(each.run_id)["children"]) for each in rows)
        return list(zip(rows, map(bool, await store.batch("look for child runs", *asked)), strict=True))
