"""Memory of processes and of their descendants. Linux only."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes and their living descendants. Shared memory counts for each of them.

    Raises:
        OSError: There is no /proc here.
    """
    pages: dict[int, int] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except OSError:  # it has just ended
            continue
        children[int(parent)].append(int(folder.name))
    found, waiting = 0, list(pids)
    while waiting:
        pid = waiting.pop()
        found += pages.get(pid, 0)
        waiting.extend(children[pid])
    return found * os.sysconf("SC_PAGE_SIZE")
