"""The attempts of one process, to be found by whoever has to stop them.

An attempt is entered before its claim is asked for: the end of its run may be told before the claim's answer is read.
"""

from __future__ import annotations

import threading

from ...orchestration.engine.leases import Held
from .running import Running

_RUN_ENDED = "its run has ended"


class RunningAttempts:
    """Entered and left by the driver of each attempt, searched from other threads."""

    def __init__(self) -> None:
        self._by_run: dict[str, dict[str, Running]] = {}
        self._lock = threading.Lock()

    def enter(self, held: Held, *, after: Running | None = None) -> Running:
        """Enter an attempt, unless it is already.

        Args:
            held: Its claim.
            after: The attempt whose commit has claimed it, still entered: it has heard what was told meanwhile.
        """
        with self._lock:
            attempts = self._by_run.setdefault(held.run_id, {})
            running = attempts.get(held.claim_id)
            if running is None:
                running = attempts[held.claim_id] = Running(held)
        if after is not None and after.reason == _RUN_ENDED:
            running.cancel(_RUN_ENDED)
        return running

    def leave(self, held: Held) -> None:
        """The attempt has ended, or there is none."""
        with self._lock:
            attempts = self._by_run.get(held.run_id, {})
            attempts.pop(held.claim_id, None)
            if not attempts:
                self._by_run.pop(held.run_id, None)

    def cancel(self, held: Held, reason: str) -> None:
        """Stop one."""
        with self._lock:
            running = self._by_run.get(held.run_id, {}).get(held.claim_id)
        if running is not None:
            running.cancel(reason)

    def run_ended(self, run_id: str) -> None:
        """Stop all of a run."""
        with self._lock:
            attempts = list(self._by_run.get(run_id, {}).values())
        for running in attempts:
            running.cancel(_RUN_ENDED)
