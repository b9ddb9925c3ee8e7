"""Concurrent runs of all kinds: started, answered, read along, and checked once they have ended."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from support.chaos.deployment import ChaosDeployment, await_idle
from support.chaos.flow_events import Answer, Chaotic
from support.chaos.flows import KINDS, Asks
from support.chaos.invariants import Violation, violations
from support.chaos.observed import RunSeen, see_leftovers, see_runs
from umbel import WorkflowHandler

#: The maximum size of a run by kind: steps of a chain, branches of a fan-out.
MOST = {"chain": 8, "nested": 4, "wait": 3, "retry": 1, "join": 5, "stream": 20, "children": 4}


class Load:
    """The runs that a test has started."""

    def __init__(self, deployment: ChaosDeployment, seed: int, excused: type[Exception] | None = None) -> None:
        """Args:
        deployment: Where the runs are started.
        seed: Seeds the sizes of the runs.
        excused: An exception with which a run may also end; its commits are then not checked.
        """
        self.deployment = deployment
        self.random = random.Random(f"load {seed}")
        self._excused = excused
        self.seen: dict[str, RunSeen] = {}
        self._handlers: dict[str, WorkflowHandler] = {}
        self._unanswered: dict[str, list[int]] = {}

    def start(self, count: int, kinds: Sequence[type[Chaotic]] = KINDS, *, seconds: float = 0.02) -> list[str]:
        """Start runs of these kinds in turn, with random sizes; the steps of each last up to `seconds`."""
        return [self.start_some(kinds[number % len(kinds)], seconds=seconds) for number in range(count)]

    def start_some(self, kind: type[Chaotic], *, seconds: float) -> str:
        """Start one run of a random size; its steps last up to `seconds`."""
        return self.start_one(kind, self.random.randint(1, MOST.get(kind.KIND, 12)), self.random.uniform(0, seconds))

    def start_one(self, kind: type[Chaotic], n: int, seconds: float = 0.0, *, timeout: float | None = None) -> str:
        """Start one run."""
        flow = kind(runtime=self.deployment.runtime, timeout=timeout, **kind.OPTIONS)
        handler = flow.start(n=n, seconds=seconds, session=kind.session(n))
        run_id = handler.run_id
        commits = kind.commits(n)
        self.seen[run_id] = RunSeen(run_id, kind.KIND, expected=kind.expected(n), commits=commits)
        self._handlers[run_id] = handler
        if issubclass(kind, Asks):
            self._unanswered[run_id] = list(range(n))
        return run_id

    def answer(self, *, chance: float = 1.0) -> None:
        """Answer all current and future questions, or a random part; an answer may precede its question."""
        for run_id, numbers in list(self._unanswered.items()):
            for number in list(numbers):
                if self.random.random() < chance:
                    self._handlers[run_id].send_event(Answer(n=number, text=f"answer {number}"))
                    numbers.remove(number)
            if not numbers:
                del self._unanswered[run_id]

    def handler(self, run_id: str) -> WorkflowHandler:
        """Return the handler of a run."""
        return self._handlers[run_id]

    def forget(self, run_id: str) -> None:
        """Exclude a run from all checks."""
        for known in (self.seen, self._handlers, self._unanswered):
            known.pop(run_id, None)

    def ended(self, of: Collection[str]) -> list[str]:
        """Return those of these runs that have ended."""
        return [run_id for run_id in of if self._handlers[run_id].is_done()]

    def await_all(self, seconds: float = 50.0) -> None:
        """Wait until all runs have ended; one that has not ended by then violates I1."""
        self.answer()
        deadline = time.monotonic() + seconds
        for run_id, handler in self._handlers.items():
            seen = self.seen[run_id]
            seen.result = self._result(handler, deadline)
            if self._excused is not None and isinstance(seen.result, self._excused):
                seen.expected, seen.commits = seen.result, None

    @staticmethod
    def _result(handler: WorkflowHandler, deadline: float) -> Any:
        try:
            return handler.result(max(0.01, deadline - time.monotonic()))
        except Exception as error:
            return error

    def judge(self, *, at_rest: bool = True, most: int | None = None, seconds: float = 40.0) -> list[Violation]:
        """Wait until the deployment is idle, and return the violations.

        Args:
            at_rest: Whether to wait until the deployment is idle and to check that nothing is left.
            most: The maximum number of executions per work item.
            seconds: How long to wait.
        """
        if at_rest:
            with suppress(AssertionError):  # anything left is found and named below
                await_idle(self.deployment, seconds)
        runs = see_runs(self.deployment, self.seen.values())
        return violations(runs, see_leftovers(self.deployment) if at_rest else None, most=most)

    def executions(self) -> int:
        """Return how many step executions the effect log has."""
        tokens = {(line["run"], line["work"], line["token"]) for line in self.deployment.effects()}
        return len({token for token in tokens if token[0] in self.seen})

    def absorbed(self) -> int:
        """Return how many dispatches, commits and sends were duplicate or late and had no effect."""
        names = ("stale_doorbells", "duplicate_doorbells", "stale_commits", "absorbed_sends")
        return sum(self.deployment.counter(name) for name in names)
