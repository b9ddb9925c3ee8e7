"""Sessions: names for runs that share one state, one at a time. Served runs are found and continued by them.

A run of a session has the id `<state id>.<random>`, where the state id is the session's name, escaped: so everything of
one session is in one shard, the id of a run says which session it belongs to, and nothing has to be looked up. The run
that a session is at is in `handler:<state id>`, written only by the script that begins the run. What waits for its turn
is in `line:<state id>` (`lua/lib/turns.lua`). A run without a session is its own handler for servers.
"""

from __future__ import annotations

import re

from ..connection.keys import check_chosen_id, new_id
from ..model.errors import WorkflowRuntimeError

#: Bytes of UTF-8 that a session's name may have; escaped it is at most three times as long.
LONGEST_NAME = 128

_PLAIN = re.compile(rb"[A-Za-z0-9_-]")
_ESCAPED = re.compile(r"~([0-9A-F]{2})")


def state_id_for(session: str) -> str:
    """The state id of a session: its name, with every byte but letters, digits, `_`, `-` as `~` and two digits.

    Raises:
        WorkflowRuntimeError: It is no text of 1 to 128 bytes, or has something that no address can carry.
    """
    try:
        raw = session.encode()
    except (AttributeError, UnicodeEncodeError):
        raw = b""
    is_printable = bool(raw) and session.isprintable() and "/" not in session
    if not is_printable or len(raw) > LONGEST_NAME or session in (".", ".."):
        raise WorkflowRuntimeError(
            f"{_shortened(session)} cannot be a handler id or the name of a session: expected a text of 1 to "
            f"{LONGEST_NAME} bytes without '/' and control characters. Choose such a name."
        )
    # A leading '-' too: a shell command would take the run's id for an option.
    kept = (bytes([b]) for b in raw)
    return "".join(b.decode() if _PLAIN.match(b) and (b != b"-" or i) else f"~{b[0]:02X}" for i, b in enumerate(kept))


def session_of(run_id: str) -> str:
    """The session of a run, as the run's id says; a run of none is its own."""
    state_id, dot, _ = run_id.partition(".")
    if not dot:
        return run_id
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), state_id).encode("latin-1").decode(errors="replace")


def new_run_of(session: str, own_part: str | None = None) -> str:
    """An id for the next run of a session; `own_part` says what follows the session, by default an unguessable id."""
    return f"{state_id_for(session)}.{own_part or new_id()}"


def is_plain(handler_id: str) -> bool:
    """Whether a run may have this id itself."""
    try:
        return bool(check_chosen_id(handler_id))
    except WorkflowRuntimeError:
        return False


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
