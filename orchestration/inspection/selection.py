"""Runs that meet a condition, for commands and programs that act on many of them.

No index is needed and nothing is written: runs are read from the newest to the oldest, a page at a time.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import Any

from ..store.verbs import Store
from .run_list import MAX_LIMIT, RunQuery, list_runs
from .run_rows import ListedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """The condition for a run. Times are Redis time in ms; an attribute that is empty or None does not restrict.

    Attributes:
        statuses: One of these.
        workflows: One of these; the last part of a workflow's name suffices.
        tags: It has all of these.
        started_after, started_before: When it started.
        ended_before: It has ended, and before this time.
    """

    statuses: tuple[str, ...] = ()
    workflows: Collection[str] = ()
    tags: Collection[str] = ()
    started_after: int | None = None
    started_before: int | None = None
    ended_before: int | None = None

    def fits(self, run: ListedRun, tags: Collection[str]) -> bool:
        """Whether a run meets the condition; `statuses` is not checked here."""
        return (
            (not self.workflows or not {run.workflow, run.workflow.rpartition(".")[2]}.isdisjoint(self.workflows))
            and set(self.tags) <= set(tags)
            and (self.started_after is None or run.created_at >= self.started_after)
            and (self.started_before is None or run.created_at < self.started_before)
            and (self.ended_before is None or (run.ended_at is not None and run.ended_at < self.ended_before))
        )


@dataclass(frozen=True, slots=True)
class SelectedRun:
    """A run that meets the condition, and its tags."""

    run: ListedRun
    tags: tuple[str, ...]


async def selected(store: Store, wanted: RunFilter) -> AsyncGenerator[SelectedRun]:
    """The runs that meet a condition, newest first: a running run by its start, an ended one by its end.

    A run that starts or ends meanwhile may be missed. The caller may delete or end the runs it has received.

    Raises:
        WorkflowRuntimeError: Unknown status.
        StoreUnavailable: Redis did not answer.
    """
    cursor: str | None = None
    while True:
        page = await list_runs(store, RunQuery(wanted.statuses, with_input=False, limit=MAX_LIMIT, cursor=cursor))
        asked = (("HGET", store.locate(run.run_id)["run"], "options") for run in page.runs)
        options = await store.batch("read runs", *asked)
        for run, raw in zip(page.runs, options, strict=True):
            tags = tags_of(json.loads(raw or b"{}"))
            if wanted.fits(run, tags):
                yield SelectedRun(run, tags)
        cursor = page.cursor
        if cursor is None or _is_before(page.runs, wanted.started_after):
            return


def tags_of(options: dict[str, Any]) -> tuple[str, ...]:
    """The tags in a run's options."""
    return tuple(options.get("tags", ()))


def _is_before(runs: Collection[ListedRun], started_after: int | None) -> bool:
    """Whether one of these ended, or started if running, before: then all runs that follow have started before."""
    return started_after is not None and any((run.ended_at or run.created_at) < started_after for run in runs)
