"""The log lines of a run's steps, which are stored with the run."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from ...model.errors import RunNotFound
from ...store.reads import StoreReads
from ...store.replies import not_found

#: First byte of a compressed part; a msgpack array never begins with it.
_COMPRESSED = 0x78


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log line.

    Attributes:
        at: When it was logged, in ms of the worker's clock.
        level: Name of the level in Python's `logging`; empty for a note by umbel about lines that are left out.
        logger: Name of the logger; `print` for printed lines.
        text: The message, with its traceback if it has one.
        step: The step that logged it.
        work_id: The work item.
        attempt: The attempt of the work item.
    """

    at: int
    level: str
    logger: str
    text: str
    step: str
    work_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunLog:
    """The part of a run's log that is stored.

    Attributes:
        lines: In the order in which they were logged, as far as the workers' clocks agree.
        is_cut: The oldest lines were removed, because the log exceeded `UMBEL_RUN_LOG_MAX_BYTES`.
    """

    lines: tuple[LogLine, ...]
    is_cut: bool


async def read_log(store: StoreReads, run_id: str, *, work_id: str | None = None, step: str | None = None) -> RunLog:
    """Read what the steps of a run have logged.

    *Promise:* changes nothing. What a running step has logged in the last second may be missing.

    Args:
        store: The runs.
        run_id: The run.
        work_id: Only lines of this work item.
        step: Only lines of this step.

    Raises:
        RunNotFound: No such run, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    keys = store.locate(run_id)
    exists, raw = await store.batch(
        "read a log", ("EXISTS", keys["run"]), ("ZRANGE", keys["logs"], 0, -1, "WITHSCORES")
    )
    if not exists:
        raise RunNotFound(not_found(run_id))
    found = [part for part in raw[::2] if part]
    lines = (line for part in found for line in _lines(part))
    fitting = [line for line in lines if work_id in (None, line.work_id) and step in (None, line.step)]
    return RunLog(tuple(sorted(fitting, key=lambda line: line.at)), len(found) < len(raw) // 2)


def _lines(part: bytes) -> Iterator[LogLine]:
    if part[0] == _COMPRESSED:
        part = zlib.decompress(part)
    read: list[Any] = msgpack.unpackb(part)
    work_id, step, attempt, _, _, lines = read
    for at, level, logger, text in lines:
        yield LogLine(at, level, logger, text, step, work_id, attempt)
