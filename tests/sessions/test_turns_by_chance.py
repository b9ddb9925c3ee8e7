"""Sessions compared with a model: after each of many random operations, both have the same current run, line and state;
at the end, each run's journal replays to the run as it is.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, DrivenRun, event, failed, plan_of, step, stop
from support.store.state_writer import BlockingHash
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.history.verify import verify
from umbel.orchestration.model.commands import WhenBusy
from umbel.orchestration.model.decide import decide_start
from umbel.orchestration.model.envelope import CANCELLED, START, ending
from umbel.orchestration.model.work_item import FannedOut
from umbel.orchestration.sessions.look import current_run, waiting_runs
from umbel.orchestration.sessions.names import new_run_of
from umbel.orchestration.state.redis_hash import Change, StateHash
from umbel.orchestration.store.replies import Applied, Refusal

PLAN = plan_of(step("begin", START, num_workers=2), step("go_on", "A", num_workers=2))
#: Operations per world; set MODEL_SCRIPTS for more.
OPERATIONS = int(os.environ.get("MODEL_SCRIPTS", "1500")) // 5


@dataclass
class Model:
    """The expected state of a session."""

    at: DrivenRun | None = None
    goes_on: bool = False
    line: list[DrivenRun] = field(default_factory=list)
    state: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)

    def begin(self, run: DrivenRun) -> None:
        """Begin a run."""
        self.at, self.goes_on, self.before = run, True, dict(self.state)

    def end(self) -> None:
        """End the current run; the next one begins."""
        self.goes_on = False
        if self.line:
            self.begin(self.line.pop(0))


class World:
    """A session, and the operations on it."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.random, self.model = store, random.Random(seed), Model()
        self.name = f"h {seed}"
        self.runs: list[DrivenRun] = []
        self.written = 0

    def start(self) -> None:
        """Start a run, whether or not one is running."""
        when_busy: WhenBusy = self.random.choice(["queue", "queue", "queue", "reject", "interrupt", "rollback"])
        run, model = DrivenRun(self.store, PLAN, new_run_of(self.name)), self.model
        reply = self.store.start(
            run.run_id,
            PLAN,
            decide_start(PLAN, run.run_id, event(START), LIMITS),
            nonce=new_id(),
            timeout_seconds=self.random.choice([None, 60]),
            when_busy=when_busy,
        )
        if model.goes_on and when_busy == "reject":
            assert reply is Refusal.RUNNING
            return
        run.heard(reply)
        self.runs.append(run)
        if model.goes_on and when_busy == "queue":
            model.line.append(run)
            return
        if model.goes_on and when_busy == "rollback":
            model.state = dict(model.before)
        model.begin(run)

    def ended(self, applied: Any, run: DrivenRun) -> None:
        """Apply the end of a run to the model."""
        assert isinstance(applied, Applied)
        model = self.model
        if run in model.line:
            model.line.remove(run)
            assert applied.following is None
            return
        following = model.line[0] if model.line else None
        assert (applied.following and applied.following.run_id) == (following and following.run_id)
        if following is not None and applied.following is not None:
            following.dispatches.extend(applied.following.dispatches)
        model.end()

    def work(self) -> None:
        """Execute a step of the current run: it writes to the state, and the run continues or ends."""
        run = self.model.at
        if run is None or not self.model.goes_on or not run.dispatches:
            return
        work = run.ask(run.dispatches.popleft())
        assert not isinstance(work, Refusal), work
        for _ in range(self.random.randrange(3)):
            self.written += 1
            name = self.random.choice("abc")
            BlockingHash.of(self.store, run.run_id, work.state_id, work).write(
                Change("set", set={name: b"%d" % self.written})
            )
            self.model.state[name] = self.written
        outcome = self.random.choice(["on", "on", "stop", "fail"])
        if outcome == "on":
            run.commit(work, FannedOut((event("A"), event("A"))))
        else:
            self.ended(run.commit(work, stop(1) if outcome == "stop" else failed()), run)

    def cancel(self) -> None:
        """Cancel or time out the current run, or one that waits."""
        going_on = [self.model.at] if self.model.goes_on else []
        if not (known := [*self.model.line, *going_on]):
            return
        run = self.random.choice(known)
        status = self.random.choice(["cancelled", "timed_out"])
        assert run is not None
        self.ended(self.store.finish(run.run_id, status, ending(CANCELLED)), run)

    def send(self) -> None:
        """Send an event to any run."""
        if self.runs:
            self.random.choice(self.runs).send(event("A"))

    def late(self) -> None:
        """Repeat the end of a run that has ended, and retry it too late."""
        past = [run for run in self.runs if run is not self.model.at and run not in self.model.line]
        if past:
            run = self.random.choice(past)
            assert self.store.finish(run.run_id, "cancelled", ending(CANCELLED)) is None
            assert not isinstance(self.store.revive(run.run_id, timeout_seconds=None), Applied)

    def retry(self) -> None:
        """Retry the current run after it has failed or was cancelled."""
        run = self.model.at
        if run is None or self.model.goes_on:
            return
        reply = self.store.revive(run.run_id, timeout_seconds=None)
        if isinstance(reply, Applied):
            run.dispatches.clear()
            run.heard(reply)
            self.model.goes_on = True

    def put_back(self) -> None:
        """Put the state back to an earlier version; refused while a run is running or waiting."""
        if self.model.at is None:
            return
        run_id = self.model.at.run_id
        state = self.store.over(StateHash, run_id, run_id.partition(".")[0])
        version = self.random.randrange(1 + state.version())
        then = state.read_version(version)
        answer = state.put_back(version, idle=True)
        assert (answer == "busy") == (self.model.goes_on or bool(self.model.line))
        if answer != "busy":
            self.model.state = {name: int(raw) for name, raw in then.items()}

    def agree(self) -> None:
        """Check that the session is as the model says."""
        model, store = self.model, self.store
        at = store.call(current_run, store, self.name)
        assert at == (model.at.run_id if model.at else "")
        assert store.call(waiting_runs, store, self.name) == [run.run_id for run in model.line]
        if self.runs:
            state_id = self.runs[0].run_id.partition(".")[0]
            found = store.over(StateHash, self.runs[0].run_id, state_id).read_all()
            assert {name: json.loads(raw) for name, raw in found.items()} == model.state
        if model.at is not None:
            record = store.run(model.at.run_id)
            assert (record.status == "running", record.is_queued) == (model.goes_on, False)
        assert all(store.run(run.run_id).is_queued for run in model.line)


@pytest.mark.parametrize("seed", range(4))
def test_a_session_is_what_its_model_is(store: Store, seed: int) -> None:
    world = World(store, seed)
    world.start()
    operations = [
        world.start,
        world.work,
        world.work,
        world.work,
        world.cancel,
        world.send,
        world.late,
        world.retry,
        world.put_back,
    ]
    for _ in range(OPERATIONS):
        world.random.choice(operations)()
        world.agree()

    for run in world.runs:
        assert [str(each) for each in store.call(verify, store, run.run_id).differences] == []
