"""Decides which suspects may be executed in this process, and beside how many others.

After a loss most of what is claimed here is suspect, and any of it may kill this process too. So suspects begin with
one at a time. Each one that ends well admits one more, and each second that they all survive doubles the number.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ...orchestration.model.suspicion import CROWDS, ONE_SUSPECT, Room

#: After this many seconds without harm, twice as many suspects may run.
_SURVIVED_SECONDS = 1.0


class Permit:
    """Permission to execute one suspect; `room` is passed with its claim."""

    __slots__ = ("_suspects", "level", "room")

    def __init__(self, suspects: Suspects, level: int, room: Room) -> None:
        self._suspects, self.level, self.room = suspects, level, room

    def end(self, *, went_well: bool) -> None:
        """It has stopped running; `went_well` if it was executed and this process has survived it."""
        self._suspects.ended(self, went_well=went_well)


class Suspects:
    """The suspects of one process; used only on the loop that its attempts run on."""

    def __init__(self, *, one_at_a_time: bool = False) -> None:
        """Args:
        one_at_a_time: This process executes one step at a time anyway, so each suspect is alone.
        """
        self._one_at_a_time = one_at_a_time
        self._window = 1
        self._running = [0] * len(CROWDS)
        self._waiting: list[deque[asyncio.Future[Permit]]] = [deque() for _ in CROWDS]
        self._timer: asyncio.TimerHandle | None = None

    async def permit(self, level: int) -> Permit:
        """Wait until a suspect of this level, from 1, may be executed."""
        asked: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        self._waiting[level - 1].append(asked)
        self._admit()
        try:
            return await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled():  # granted, but it will not be used
                asked.result().end(went_well=False)
            raise

    def ended(self, permit: Permit, *, went_well: bool) -> None:
        """See `Permit.end`."""
        self._running[permit.level - 1] -= 1
        if went_well:
            self._grow_to(self._window + 1)
        self._admit()

    def _room_for(self, level: int) -> int:
        strictest = max([n for n, count in enumerate(self._running, 1) if count] + [level])
        return min(self._window, CROWDS[strictest - 1])

    def _admit(self) -> None:
        # The least suspected first: there are many of them, and the others may have to wait for one that kills.
        for level, waiting in enumerate(self._waiting, 1):
            while waiting and sum(self._running) < self._room_for(level):
                asked = waiting.popleft()
                if not asked.done():
                    self._running[level - 1] += 1
                    is_alone = self._one_at_a_time or CROWDS[level - 1] == 1
                    asked.set_result(Permit(self, level, ONE_SUSPECT if is_alone else Room(level)))
        if self._timer is None and not self._one_at_a_time and any(self._waiting) and self._window < CROWDS[0]:
            self._timer = asyncio.get_running_loop().call_later(_SURVIVED_SECONDS, self._survived)

    def _survived(self) -> None:
        self._timer = None
        self._grow_to(2 * self._window)
        self._admit()

    def _grow_to(self, window: int) -> None:
        self._window = 1 if self._one_at_a_time else min(window, CROWDS[0])
