"""How work is treated whose process died: more suspect each time, with fewer other suspects in the same process. Most
work that a process held when it died is innocent and must continue quickly; some of it may kill the next process too.
See docs/decisions/0008.
"""

from __future__ import annotations

from dataclasses import dataclass

#: By level of suspicion, from 1: how many suspects may run in one process together with one of that level.
CROWDS = (1024, 32, 1)

#: The highest level: the only suspect in its process, and charged if the process dies.
MOST = len(CROWDS)


@dataclass(frozen=True, slots=True)
class Room:
    """What a process can take when it claims.

    Attributes:
        suspicion: It takes suspects up to this level; 0 is none.
        alone: No other suspect runs in it, or will before this one has ended. A loss is then charged to this one.
    """

    suspicion: int = 0
    alone: bool = False


NO_SUSPECTS = Room()
ONE_SUSPECT = Room(MOST, alone=True)
