"""Searches runs by the content of their events: reads journals and streams, a bounded part for each page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from ...model.envelope import Envelope
from ...model.errors import HistoryDamaged, RunNotFound
from ...store.journal import entries
from ...store.verbs import Store
from ...streams.log import EVENT, read_page
from ..run_detail import read_entry
from ..run_list import Readable, RunPage, RunQuery, list_runs
from ..run_rows import ListedRun

#: Runs that are searched at the same time.
AT_ONCE = 20
#: Maximum bytes of journals and streams that are searched for a page, and in one run.
BYTES, OF_A_RUN = 32 << 20, 8 << 20
#: Commands that contain an event.
_WITH_EVENT = {"keep", "absorb", "finish", "inbox", "publish"}
#: Characters shown on each side of a match.
_AROUND = 60


@dataclass(frozen=True, slots=True)
class Found:
    """The first event of a run that contains the text.

    Attributes:
        type: Wire name of its class.
        excerpt: Its JSON around the match.
    """

    type: str
    excerpt: str


async def runs_with(
    store: Store, query: RunQuery, text: str, readable: Readable | None = None
) -> tuple[RunPage, Mapping[str, Found]]:
    """A page of those runs of `list_runs` that received, emitted or published an event that contains a text.

    The JSON of events is searched, ignoring case. A page may be short or empty and still have a cursor.

    *Promise:* changes nothing. Searches about `BYTES` for a page and `OF_A_RUN` in a run; an event beyond that is not
    found. An event whose value the journal does not keep (`history="summary"`, the work of very large fan-outs) is
    found only if it was published.

    Raises:
        WorkflowRuntimeError: As `list_runs`.
        StoreUnavailable: Redis did not answer.
    """
    needle, left = _spelled(text), BYTES
    found: dict[str, Found] = {}
    rows: list[ListedRun] = []
    page = query
    while True:
        most = min(AT_ONCE, query.limit - len(rows))
        runs = await list_runs(store, replace(page, limit=most), readable)
        looked = await asyncio.gather(*(_first(store, run.run_id, needle) for run in runs.runs))
        for run, (match, size) in zip(runs.runs, looked, strict=True):
            left -= size
            if match is not None:
                rows.append(run)
                found[run.run_id] = match
        is_short = len(runs.runs) < most  # then finding them took as much work as a page may take
        if runs.cursor is None or is_short or len(rows) >= query.limit or left <= 0:
            return replace(runs, runs=tuple(rows)), found
        page = replace(page, cursor=runs.cursor)


def _spelled(text: str) -> str:
    """The text as JSON spells it, case-folded."""
    return json.dumps(text, ensure_ascii=False)[1:-1].casefold()


async def _first(store: Store, run_id: str, needle: str) -> tuple[Found | None, int]:
    """The first event that contains the text, and how many bytes were searched."""
    looked = 0
    with suppress(RunNotFound, HistoryDamaged):  # deleted meanwhile, or unreadable
        async for event, size in _events(store, run_id):
            looked += size
            payload = event.payload.decode(errors="replace") if event is not None else ""
            at = payload.casefold().find(needle)
            if event is not None and at >= 0:
                begin, end = max(0, at - _AROUND), at + len(needle) + _AROUND
                excerpt = ("…" if begin else "") + payload[begin:end] + ("…" if end < len(payload) else "")
                return Found(event.type, excerpt), looked
            if looked > OF_A_RUN:
                break
    return None, looked


async def _events(store: Store, run_id: str) -> AsyncIterator[tuple[Envelope | None, int]]:
    """The events of the journal, then those of the stream, each with the bytes that were read for it."""
    async for entry in entries(store, run_id):
        yield None, entry.size
        for command in read_entry(entry).commands if entry.kind != "state" else ():
            if command["o"] in _WITH_EVENT:
                yield Envelope.from_bytes(command["d"].encode("utf-8", "surrogateescape")), 0
    after = -1
    while True:
        page = await read_page(store, run_id, after, with_traces=False)
        for published in page.entries:
            if published.kind == EVENT:
                yield published.decoded().envelope, len(published.data)
        if page.is_last:
            return
        after = page.settled
