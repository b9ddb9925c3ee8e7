"""Handlers: names for a sequence of runs that share one state. Served runs are found and continued by them.

A run without a name is its own handler. One that is started for a named handler has the id `<state id>.<random>`, where
the state id is the name, escaped: so everything of one handler is in one shard, the id of a run says which handler it
belongs to, and nothing has to be looked up. The current run of a handler is in `handler:<state id>`, written only by
the script that starts the run.
"""

from __future__ import annotations

import re

from ..connection.keys import check_chosen_id, new_id
from ..model.errors import RunNotFound, WorkflowRuntimeError
from ..store.replies import Follows, RunRecord
from ..store.verbs import Store

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
    """The handler of a run, as the run's id says."""
    state_id, dot, _ = run_id.partition(".")
    if not dot:
        return run_id
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), state_id).encode("latin-1").decode(errors="replace")


def new_run_of(handler_id: str) -> str:
    """An id for the next run of a named handler."""
    return f"{state_id_for(handler_id)}.{new_id()}"


async def current_run(store: Store, handler_id: str) -> Follows:
    """The current run of a handler."""
    state_id = state_id_for(handler_id)
    key = store.locate(state_id)[f"handler:{state_id}"]
    found = await store.command("look at a handler", "GET", key)
    if found:
        return Follows(found.decode(), found.decode())
    return Follows("", handler_id if is_plain(handler_id) else "")


async def handler_record(store: Store, handler_id: str) -> RunRecord:
    """The current run of a handler.

    Raises:
        RunNotFound: There is no such handler, or its retention is over.
    """
    try:
        before = (await current_run(store, handler_id)).before
    except WorkflowRuntimeError as error:
        raise RunNotFound(str(error)) from error
    if not before:
        raise RunNotFound(f"No handler {handler_id!r}: nothing was started under this name, or its retention is over.")
    return await store.run(before)


def is_plain(handler_id: str) -> bool:
    """Whether a run may have this id itself."""
    try:
        return bool(check_chosen_id(handler_id))
    except WorkflowRuntimeError:
        return False


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
