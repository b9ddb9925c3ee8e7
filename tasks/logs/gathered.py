"""A bounded buffer for the lines that one attempt logs, until they are written."""

from __future__ import annotations

import logging
import re
import traceback
import zlib
from collections import deque
from dataclasses import dataclass, field

import msgpack

from ...orchestration.connection.settings import redact_url
from ...orchestration.model.work_item import Work

#: Maximum characters of one line.
LINE = 8_000
#: When the room is used up, only the last lines are kept: this many.
LAST = 20
#: Parts with more bytes are compressed.
_SMALL = 400
#: Lengths are bounded, so that the search is fast in any text.
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,24}://\S{1,2000}", re.IGNORECASE)

#: When (Unix ms), level, logger, text.
Line = tuple[int, str, str, str]


@dataclass(slots=True, eq=False)
class StepLog:
    """The lines of one attempt that are not written yet. Not thread-safe: its owner has the lock.

    Attributes:
        work: The attempt.
        room: Characters that it may still log.
    """

    work: Work
    room: int
    _lines: list[Line] = field(default_factory=list)
    _last: deque[Line] = field(default_factory=lambda: deque(maxlen=LAST))
    _beyond: int = 0
    _part: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write while the attempt runs."""
        return not self._lines

    def add(self, at: int, level: str, logger: str, text: str) -> None:
        """Add a line."""
        line = at, level, logger, text if len(text) <= LINE else f"{text[:LINE]}…"
        if self.room > 0:
            self._lines.append(line)
            self.room -= len(line[3]) + len(logger)
        else:
            self._beyond += 1
            self._last.append(line)

    def take(self, *, is_over: bool = False) -> tuple[int, bytes] | None:
        """Remove the lines to write: the time of the first one, and all of them packed; None if there are none.

        Args:
            is_over: The attempt has ended: include the last of the lines that had no room.
        """
        lines, self._lines = self._lines, []
        if is_over and self._beyond:
            if (between := self._beyond - len(self._last)) > 0:
                lines.append((self._last[0][0], "", "", f"… {between:,} lines are left out"))
            lines += self._last
            self._last.clear()
            self._beyond = 0
        if not lines:
            return None
        self._part += 1
        about = [self.work.work_id, self.work.step, self.work.attempt, self.work.claim_id, self._part]
        packed: bytes = msgpack.packb([*about, lines], unicode_errors="backslashreplace")
        return lines[0][0], packed if len(packed) <= _SMALL else zlib.compress(packed, 1)


def text_of(record: logging.LogRecord) -> str:
    """The text of a log record with its traceback, without passwords in URLs. Never raises."""
    try:
        text = record.getMessage()
    except Exception:  # as in logging itself, a line that cannot be formatted does not fail the step
        text = f"{_shown(record.msg)} {_shown(record.args)}"
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    if record.stack_info:
        text += f"\n{record.stack_info}"
    return redacted(text[: 2 * LINE])  # cut to `LINE` only later: half a URL could show its password


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def redacted(text: str) -> str:
    """The text with passwords in URLs replaced."""
    return _URL.sub(_redacted_url, text) if "://" in text else text


def _redacted_url(found: re.Match[str]) -> str:
    return redact_url(found[0])
