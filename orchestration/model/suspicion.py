"""How work is treated whose process died. Each time it becomes more suspect: fewer suspects may run beside it. Most
work that a process held when it died is harmless and must continue quickly; some of it may kill the next process too.
See docs/decisions/0008.
"""

from __future__ import annotations

from dataclasses import dataclass

#: By level of suspicion, from 1: how many suspects may run in a process that runs one of this level.
CROWDS = (1024, 32, 1)

#: The highest level: the only suspect in its process, and charged with the loss if the process dies.
MOST = len(CROWDS)


@dataclass(frozen=True, slots=True)
class Room:
    """Which suspects a process accepts in a claim.

    Attributes:
        suspicion: The highest level of suspicion that it accepts; 0 accepts no suspects.
        alone: No other suspect runs in it, or will before this one has ended. A loss is then charged to this one.
    """

    suspicion: int = 0
    alone: bool = False


NO_SUSPECTS = Room()
ONE_SUSPECT = Room(MOST, alone=True)
