"""Wherever a process dies or another one intervenes while a parent runs children: each child starts and ends once."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches, blocking_sweep
from support.store.checks import checked_store
from support.store.driving import event, plan_of, step, stop
from support.store.limited_runs import index_keys
from support.store.meddled import meddled_store
from support.store.mortal import Died, mortal_store
from support.store.set_back import SetBack
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.children.spec import ChildSpec
from umbel.orchestration.engine.emitted import Emitted
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.model.envelope import CANCELLED, START, ending
from umbel.orchestration.model.suspicion import ONE_SUSPECT
from umbel.orchestration.model.work_item import AwaitedChild, Awaiting, Outcome, Work
from umbel.orchestration.store.replies import Dispatch
from umbel.orchestration.store.scripts import unpack

PLAN = plan_of(step("begin", START, num_workers=3))
CHILDREN = ("child-1", "child-2", "child-3")
PARENT = "parent"


def awaited(child_id: str) -> AwaitedChild:
    spec = ChildSpec(event(START, n=int(child_id[-1])), "umbel").to_bytes()
    return AwaitedChild(child_id, f"child|{child_id}", "W", PLAN.digest, PLAN.to_json(), START, spec)


def executed(work: Work) -> Outcome:
    """Return a step's outcome: the parent's runs three children, two at a time, and returns how many have ended."""
    if work.run_id != PARENT:
        return stop(work.bound[0].value()["n"])
    missing = tuple(awaited(child) for child in CHILDREN if f"child|{child}" not in work.answers)
    return Awaiting(missing, at_once=2) if missing else stop(len(work.answers))


class Process:
    """One process at a time: after it dies, its successor completes its work."""

    def __init__(self, client: Client, settings: Settings, dies_at: int, *, applied: bool) -> None:
        self.client, self.settings = client, settings
        self.deaths = self.incarnation = 0
        self._live(mortal_store(client, settings, dies_at, applied=applied))

    def _live(self, store: Store) -> None:
        self.store, self.sent = store, SentDispatches()
        self.engine = store.over(Engine, self.sent)

    def attempt(self, act: Any) -> None:
        """Call a function in which the process may die; if it dies, start the next process."""
        try:
            act()
        except Died:
            self.deaths += 1
            self.incarnation += 1
            self._live(checked_store(self.client, self.settings))

    def start(self) -> None:
        """Start the parent, as a client does that also repeats a start of unknown outcome."""
        self.engine.start(PARENT, PLAN, event(START), nonce="n")

    def work(self) -> None:
        """Follow the messages in order."""
        while self.sent.sent:
            told = self.sent.sent.pop(0)
            self.execute(told)

    def execute(self, told: Dispatch) -> None:
        """Follow one message."""
        about = {"claim_id": f"c{told.dispatch_no}", "owner": f"owner{self.incarnation}", "room": ONE_SUSPECT}
        work = self.engine.claim(told.run_id, told.work_id, told.dispatch_no, **about)
        if isinstance(work, Work):
            self.engine.commit(work, PLAN, executed(work), Emitted(), entry={"out": ""})

    def sweep(self) -> None:
        """Sweep with everything due, including this process's own lease: it continues under another name."""
        self.incarnation += 1
        for key in index_keys(self.store, "outbox", "unclaimed", "leases"):
            for member in self.store.client.zrange(key, 0, -1):
                self.store.client.zadd(key, {member: 1}, xx=True)
        blocking_sweep(self.store, self.sent, lambda _: 0).sweep(everything=True)

    def status(self, run_id: str) -> str | None:
        """Return a run's status."""
        found = self.client.hget(self.store.locate(run_id)["run"], "status")
        return None if found is None else found.decode()

    def left_behind(self) -> list[bytes]:
        """Return what the outboxes still hold."""
        return [member for key in index_keys(self.store, "outbox") for member in self.client.zrange(key, 0, -1)]

    def told(self) -> object:
        """Describe the state of everything, for an error message."""
        keys = self.store.locate(PARENT)
        return (
            [self.status(run_id) for run_id in (PARENT, *CHILDREN)],
            self.left_behind(),
            self.client.hgetall(keys["children"]),
            self.client.hgetall(keys["work"]),
        )

    def until(self, ended: Any, rounds: int = 12) -> None:
        """Work and sweep until the condition holds."""
        for _ in range(rounds):
            self.attempt(self.work)
            if ended():
                return
            self.attempt(self.sweep)
        raise AssertionError(f"it never ends: {self.told()}")


#: More exchanges with Redis than one scenario needs.
EXCHANGES = 150
EVERY_MOMENT = pytest.mark.parametrize("applied", [False, True], ids=["before it is sent", "before the reply"])


@EVERY_MOMENT
def test_wherever_a_process_dies_a_parent_gets_the_end_of_each_child_once(
    client: Client, settings: Settings, applied: bool
) -> None:
    deaths = 0
    for dies_at in range(1, EXCHANGES):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{dies_at}"})
        process = Process(client, own, dies_at, applied=applied)
        process.attempt(process.start)
        process.attempt(process.start)
        process.until(lambda one=process: one.status(PARENT) == "completed")
        process.until(lambda one=process: not one.left_behind())
        seen = checked_store(client, own)
        record = seen.run(PARENT)
        assert record.ending is not None
        assert record.ending.value() == {"result": 3}, f"after a death at {dies_at}"
        assert record.commits == 2
        assert [seen.run(child).commits for child in CHILDREN] == [1, 1, 1], f"after a death at {dies_at}"
        deaths += process.deaths
        if not process.deaths:
            break
    assert deaths > 30  # each exchange was the last one of one process


@EVERY_MOMENT
def test_wherever_a_process_dies_the_children_of_a_cancelled_parent_end(
    client: Client, settings: Settings, applied: bool
) -> None:
    for dies_at in range(1, EXCHANGES):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{dies_at}"})
        process = Process(client, own, dies_at, applied=applied)
        process.attempt(process.start)
        process.attempt(process.start)

        def begun(one: Process = process) -> bool:
            return one.status(CHILDREN[0]) is not None

        def cancel(one: Process = process) -> None:
            one.engine.finish(PARENT, "cancelled", ending(CANCELLED))

        for _ in range(4):
            if begun():
                break
            process.attempt(lambda one=process: one.sent.sent and _claim_only_parent(one))
            process.attempt(process.sweep)
        process.attempt(cancel)
        process.attempt(cancel)
        process.until(lambda one=process: not one.left_behind())
        assert process.status(PARENT) == "cancelled"
        ends = {process.status(child) for child in CHILDREN}
        assert ends <= {"cancelled", None}, f"{ends} after a death at {dies_at}"
        if not process.deaths:
            break


def _claim_only_parent(process: Process) -> None:
    """Execute the parent's step, but no child's."""
    for told in [each for each in process.sent.sent if each.run_id == PARENT]:
        process.sent.sent.remove(told)
        process.execute(told)


def test_a_parent_that_is_retried_while_its_children_are_being_ended_gets_the_ends_of_all(
    client: Client, settings: Settings
) -> None:
    moments = 0
    for at in range(1, EXCHANGES):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{at}"})
        process = Process(client, own, 0, applied=False)
        process.start()
        _claim_only_parent(process)
        retried: list[Any] = []

        def retry(one: Process = process, retried: list[Any] = retried) -> None:
            if one.status(PARENT) == "cancelled":
                retried.append(one.engine.retry(PARENT))

        ending_it = meddled_store(client, own, {at: retry}).over(Engine, SentDispatches())
        ending_it.finish(PARENT, "cancelled", ending(CANCELLED))
        process.until(
            lambda one=process, expected="completed" if retried else "cancelled": (
                one.status(PARENT) == expected and not one.left_behind()
            )
        )
        if retried:
            moments += 1
            record = checked_store(client, own).run(PARENT)
            assert record.ending is not None
            assert record.ending.value() == {"result": 3}, f"retried at {at}"
        elif moments:
            break
    assert moments > 5


def test_children_that_two_processes_retry_at_once_continue_and_their_parent_gets_the_ends_of_all(
    client: Client, settings: Settings
) -> None:
    for at in range(1, EXCHANGES):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{at}"})
        process = Process(client, own, 0, applied=False)
        process.start()
        _claim_only_parent(process)
        process.engine.finish(PARENT, "cancelled", ending(CANCELLED))
        process.sweep()
        assert process.status(CHILDREN[0]) == "cancelled"
        process.engine.retry(PARENT)
        others: list[int] = []

        def retry_too(one: Process = process, others: list[int] = others) -> None:
            others.append(1)
            one.sweep()

        slow = meddled_store(client, own, {at: retry_too})
        blocking_sweep(slow, SentDispatches(), lambda _: 0).sweep(everything=True)
        process.until(lambda one=process: one.status(PARENT) != "running" and not one.left_behind())
        record = checked_store(client, own).run(PARENT)
        assert record.ending is not None
        assert record.ending.value() == {"result": 3}, f"both at exchange {at}"
        reported = process.store.client.hmget(process.store.locate(PARENT)["children"], CHILDREN)
        assert [unpack(child)["st"] for child in reported] == ["completed"] * 3, f"both at exchange {at}"
        if not others:
            assert at > 5
            break


@pytest.mark.parametrize("by", [1, 3, 9])
def test_wherever_redis_is_set_back_by_a_few_exchanges_each_child_is_started_and_its_parent_gets_its_end(
    client: Client, settings: Settings, by: int
) -> None:
    for at in count(by + 1):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{at}"})
        process = Process(client, own, 0, applied=False)
        process.start()
        set_back = SetBack(client, own, kept=at - by, at=at)
        process.store = set_back.store
        process.engine = process.store.over(Engine, process.sent)
        process.until(lambda one=process: one.status(PARENT) not in (None, "running") and not one.left_behind())
        record = checked_store(client, own).run(PARENT)
        assert record.ending is not None
        assert record.ending.value() == {"result": 3}, f"set back at exchange {at}"
        reported = client.hmget(process.store.locate(PARENT)["children"], CHILDREN)
        assert [unpack(child)["st"] for child in reported] == ["completed"] * 3, f"set back at exchange {at}"
        if not set_back.is_done:
            assert at > 30
            break
