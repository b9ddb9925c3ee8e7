"""Sessions: names for runs that share a state, one run at a time. Servers find and continue runs by session name.

A run of a session has the id `<state id>.<random>`, where the state id is the session's name, escaped. So everything of
a session is in one shard, and the id of a run tells its session without a lookup. The current run of a session is
stored in `handler:<state id>`, written only by the scripts that start or begin its runs. Runs that wait for their turn
are in `line:<state id>` (`lua/lib/turns.lua`). For servers, a run without a session is its own handler.
"""

from __future__ import annotations

import re

from ..connection.keys import check_chosen_id, new_id
from ..model.errors import WorkflowRuntimeError

#: Maximum bytes of a session's name in UTF-8; escaped, it is at most three times as long.
LONGEST_NAME = 128

_PLAIN = re.compile(rb"[A-Za-z0-9_-]")
_ESCAPED = re.compile(r"~([0-9A-F]{2})")


def state_id_for(session: str) -> str:
    """The state id of a session: its name, with all bytes but letters, digits, `_` and `-` as `~` and two hex digits.

    Raises:
        WorkflowRuntimeError: It is not a text of 1 to 128 bytes, or contains a character that a URL path cannot carry.
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
    # A leading '-' is escaped too: a shell command would take the run's id for an option.
    kept = (bytes([b]) for b in raw)
    return "".join(b.decode() if _PLAIN.match(b) and (b != b"-" or i) else f"~{b[0]:02X}" for i, b in enumerate(kept))


def session_of(run_id: str) -> str:
    """The session that a run's id names; for a run without a session, the run's id."""
    state_id, dot, _ = run_id.partition(".")
    if not dot:
        return run_id
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), state_id).encode("latin-1").decode(errors="replace")


def new_run_of(session: str, own_part: str | None = None) -> str:
    """An id for the next run of a session; `own_part` follows the session's part, by default an unguessable id."""
    return f"{state_id_for(session)}.{own_part or new_id()}"


def is_plain(handler_id: str) -> bool:
    """Whether a run itself may have this id."""
    try:
        return bool(check_chosen_id(handler_id))
    except WorkflowRuntimeError:
        return False


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
