"""Processor time of processes and of their descendants. Linux only; elsewhere it is unknown."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def processor_seconds(pids: Iterable[int]) -> float | None:
    """Processor time that these processes and their living descendants have used so far; None if it is unknown."""
    if not (_PROC / "self" / "stat").exists():
        return None
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(folder.name)
        ticks[pid] = int(fields[11]) + int(fields[12])
        children[int(fields[1])].append(pid)
    used, waiting = 0, list(pids)
    while waiting:
        pid = waiting.pop()
        used += ticks.get(pid, 0)
        waiting.extend(children[pid])
    return used / os.sysconf("SC_CLK_TCK")
