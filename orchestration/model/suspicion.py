"""How work is treated at which processes have died: suspected more each time, with fewer other suspects beside it.

Most of what a process had in hand when it died is innocent, and shall go on quickly; some of it may kill the next
process too. See docs/decisions/0008.
"""

from __future__ import annotations

from dataclasses import dataclass

#: By level of suspicion, from 1: how many suspects may be at work in one process where one of that level is.
CROWDS = (1024, 32, 1)

#: The highest level: alone among suspects, which is charged if its process dies.
MOST = len(CROWDS)


@dataclass(frozen=True, slots=True)
class Room:
    """What a process has room for when it claims.

    Attributes:
        suspicion: It takes suspects up to this level; 0 is none.
        alone: No other suspect is at work in it, or will be before this one has ended. A loss is charged to it then.
    """

    suspicion: int = 0
    alone: bool = False


NO_SUSPECTS = Room()
ONE_SUSPECT = Room(MOST, alone=True)
