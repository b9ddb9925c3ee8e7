"""Handlers: names for a succession of runs that share one state. Served runs are found and continued by them.

A run that nobody named is its own handler. One that is started for a named handler is called `<state id>.<random>`,
where the state id is the name, escaped: so everything of one handler lies in one shard, the id of a run tells its
handler, and nothing has to be looked up. Which run a handler is at stands in `handler:<state id>`, written by the
script that starts the run and by no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from .errors import RunNotFound, WorkflowRuntimeError
from .keys import check_chosen_id, new_id, state_id_of
from .records import Follows, RunRecord, run_record
from .run_list import MAX_LIMIT, RunQuery, list_runs
from .store import Store

#: Bytes of UTF-8 that a handler's name may have; escaped it is at most three times as long.
LONGEST_NAME = 128

_PLAIN = re.compile(rb"[A-Za-z0-9_-]")
_ESCAPED = re.compile(r"~([0-9A-F]{2})")


def state_id_for(handler_id: str) -> str:
    """The state id of a named handler: its name, with every byte but letters, digits, `_`, `-` as `~` and two digits.

    Raises:
        WorkflowRuntimeError: It is no text of 1 to 128 bytes, or has something that no address can carry.
    """
    try:
        raw = handler_id.encode()
    except (AttributeError, UnicodeEncodeError):
        raw = b""
    is_printable = bool(raw) and handler_id.isprintable() and "/" not in handler_id
    if not is_printable or len(raw) > LONGEST_NAME or handler_id in (".", ".."):
        raise WorkflowRuntimeError(
            f"{_shortened(handler_id)} cannot be a handler id: expected a text of 1 to {LONGEST_NAME} bytes without "
            "'/' and control characters. Choose such an id, or leave it out to get a generated one."
        )
    # A leading '-' too: a shell command would take the run's id for an option.
    kept = (bytes([b]) for b in raw)
    return "".join(b.decode() if _PLAIN.match(b) and (b != b"-" or i) else f"~{b[0]:02X}" for i, b in enumerate(kept))


def handler_id_of(run_id: str) -> str:
    """The handler of a run, told by the run's id."""
    state_id, dot, _ = run_id.partition(".")
    if not dot:
        return run_id
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), state_id).encode("latin-1").decode(errors="replace")


def new_run_of(handler_id: str) -> str:
    """An id for the next run of a named handler."""
    return f"{state_id_for(handler_id)}.{new_id()}"


def current_run(store: Store, handler_id: str) -> Follows:
    """Which run a handler is at, as of now."""
    state_id = state_id_for(handler_id)
    key = store.locate(state_id)[f"handler:{state_id}"]
    found = store.read("look at a handler", lambda: store.client.get(key))
    if found:
        return Follows(found.decode(), found.decode())
    return Follows("", handler_id if is_plain(handler_id) else "")


def handler_record(store: Store, handler_id: str) -> RunRecord:
    """The run that a handler is at.

    Raises:
        RunNotFound: There is no such handler, or its retention is over.
    """
    try:
        before = current_run(store, handler_id).before
    except WorkflowRuntimeError as error:
        raise RunNotFound(str(error)) from error
    if not before:
        raise RunNotFound(f"No handler {handler_id!r}: nothing was started under this name, or its retention is over.")
    return store.run(before)


def newest_handlers(
    store: Store,
    wanted: Callable[[RunRecord], bool],
    *,
    statuses: Collection[str],
    workflows: Collection[str] = (),
    limit: int,
) -> list[RunRecord]:
    """The run each handler is at; the one that started (while it goes on) or ended last is first.

    Args:
        store: The deployment.
        wanted: Whether a run is to be listed.
        statuses: Of runs: running, completed, failed, cancelled, timed_out.
        workflows: Only runs of these; empty is any.
        limit: At most so many.
    """
    found: list[RunRecord] = []
    query = RunQuery(tuple(statuses), tuple(workflows), limit=MAX_LIMIT)
    more = bool(statuses)
    while more and len(found) < limit:
        page = list_runs(store, query)
        found.extend(record for record in _current(store, [run.run_id for run in page.runs]) if wanted(record))
        query, more = replace(query, cursor=page.cursor), page.cursor is not None
    return found[:limit]


def _current(store: Store, run_ids: list[str]) -> list[RunRecord]:
    """Those of these runs that their handlers are at."""

    def read() -> Any:
        pipe = store.client.pipeline(transaction=False)
        for run_id in run_ids:
            keys = store.locate(run_id)
            pipe.hgetall(keys["run"]).get(keys[f"handler:{state_id_of(run_id)}"])
        return pipe.execute()

    found = store.read("read runs", read) if run_ids else []
    return [
        run_record(run_id, raw)
        for run_id, raw, at in zip(run_ids, found[::2], found[1::2], strict=True)
        if b"created_at" in raw and (at.decode() == run_id if at else "." not in run_id)
    ]


def is_plain(handler_id: str) -> bool:
    """Whether a run may itself be called so."""
    try:
        return bool(check_chosen_id(handler_id))
    except WorkflowRuntimeError:
        return False


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
