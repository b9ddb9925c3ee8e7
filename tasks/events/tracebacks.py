"""The traceback of a failed step as text, for people: short enough to be kept with the failure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from traceback import FrameSummary, StackSummary, TracebackException

from ...orchestration.connection.settings import redact_url

#: Characters of a traceback that are kept, and how many of them from its beginning.
_MAX_CHARACTERS, _HEAD_CHARACTERS = 16 * 1024, 4 * 1024
#: Frames that are examined, the innermost ones.
_MAX_FRAMES = 500

_PACKAGE = Path(__file__).parents[2]
_OWN = tuple(f"{_PACKAGE / floor}/" for floor in ("orchestration", "tasks", "workers", "server"))
#: Files of the machinery that executes steps: their frames outside the step's own say nothing about the step.
_EXECUTING = re.compile(r"/(?:asyncio|concurrent/futures|anyio|celery|billiard)/|/threading\.py$|/contextlib\.py$")
#: Lengths are bounded, so that the search takes time in proportion to the text.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,30}://[^\s'\"<>]{1,4096}")


def step_traceback(error: BaseException) -> str:
    """The traceback of an error and of its causes, without umbel's own frames and without passwords in URLs.

    Never raises; empty if it cannot be made. A long one is cut in the middle and keeps more of its end.
    """
    try:
        trace = TracebackException(type(error), error, error.__traceback__, limit=-_MAX_FRAMES, compact=True)
        for each in _chained(trace):
            each.stack = StackSummary.from_list(_of_the_step(each.stack))
        text = "".join(trace.format()).rstrip("\n")
        text = _URL.sub(lambda url: redact_url(url[0]), text)
        return _bounded(text.encode("utf-8", "backslashreplace").decode())
    except BaseException:  # an error's own methods may raise anything; that the step failed must still be recorded
        return ""


def _chained(trace: TracebackException) -> Iterator[TracebackException]:
    open_ends = [trace]
    while open_ends:
        each = open_ends.pop()
        yield each
        others = (each.__cause__, each.__context__, *(each.exceptions or ()))
        open_ends += [other for other in others if other is not None]


def _of_the_step(stack: StackSummary) -> list[FrameSummary]:
    """The frames from the step's function on; none if only umbel's own code was involved."""
    first = next((at for at, frame in enumerate(stack) if not _is_executing(frame)), len(stack))
    return [frame for frame in stack[first:] if not frame.filename.startswith(_OWN)]


def _is_executing(frame: FrameSummary) -> bool:
    return frame.filename.startswith(_OWN) or _EXECUTING.search(frame.filename) is not None


def _bounded(text: str) -> str:
    if len(text) <= _MAX_CHARACTERS:
        return text
    head = text[:_HEAD_CHARACTERS].rpartition("\n")[0] or text[:_HEAD_CHARACTERS]
    tail = text[-(_MAX_CHARACTERS - _HEAD_CHARACTERS) :]
    return f"{head}\n  … {len(text) - len(head) - len(tail)} characters cut …\n{tail}"
