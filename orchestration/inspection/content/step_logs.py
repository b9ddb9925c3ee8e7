"""What the code of steps has logged, as it is kept with its run."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from ...model.errors import RunNotFound
from ...store.reads import StoreReads
from ...store.replies import not_found

#: What a compressed part begins with; an array of msgpack does not.
_COMPRESSED = 0x78


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line.

    Attributes:
        at: When it was logged, in ms of the worker's clock.
        level: As Python's logging calls it; empty for a remark of umbel's about lines that are left out.
        logger: Its name; `print` for what was printed.
        text: With its traceback, if it has one.
        step: Where it was logged.
        work_id: The work item.
        attempt: Of that work item.
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
    """What is kept of a run's log.

    Attributes:
        lines: In the order in which they were logged, as far as the clocks of the workers agree.
        is_cut: The oldest were removed, since there were more than `UMBEL_RUN_LOG_MAX_BYTES`.
    """

    lines: tuple[LogLine, ...]
    is_cut: bool


async def read_log(store: StoreReads, run_id: str, *, work_id: str | None = None, step: str | None = None) -> RunLog:
    """Read what the steps of a run have logged.

    *Promise:* changes nothing. What a running step has logged in the last second may not be there yet.

    Args:
        store: The runs.
        run_id: The run.
        work_id: Only of this work item.
        step: Only of this step.

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
