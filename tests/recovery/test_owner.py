"""What a heartbeat may take from its owner and what not; what it gives back is rung for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from support.store.driving import DrivenRun, event, plan_of, step
from umbel.orchestration.engine.leases import Held, Leases
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut, Work
from umbel.orchestration.store.blocking import BlockingStore as Store
from umbel.orchestration.store.connection import connect
from umbel.orchestration.store.keys import new_id
from umbel.orchestration.store.replies import Dispatch
from umbel.orchestration.store.scripts import Script
from umbel.orchestration.store.settings import Settings
from umbel.tasks.attempt.heartbeat import LeaseHolder
from umbel.workers.embedded.redis_server import EmbeddedRedis

PLAN = plan_of(step("begin", START), step("work", "A", num_workers=10))


class SlowStore(Store):
    """Something happens after Redis has answered a heartbeat and before the owner reads the answer."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def evaluate(self, script: Script, keys: Sequence[str], args: Sequence[bytes]) -> Any:
        reply = super().evaluate(script, keys, args)
        if script.name == "heartbeat":
            self.meanwhile()
        return reply


@pytest.fixture
def settings() -> Iterator[Settings]:
    with EmbeddedRedis.temporary(append_only=False) as server:
        yield Settings(redis_url=server.url, heartbeat_seconds=0.05, lease_seconds=60)


def test_a_claim_that_is_answered_while_a_heartbeat_is_under_way_is_not_taken_for_lost(settings: Settings) -> None:
    store = SlowStore(connect(settings.redis_url or ""), settings)
    run = DrivenRun(Store(store.client, settings), PLAN).start()
    cancelled: list[Held] = []
    owner = LeaseHolder("w", Leases(store), lambda held, _: cancelled.append(held), lambda *_: None)
    dispatch = run.dispatch("begin")
    held = Held(run.run_id, dispatch.work_id, "c1")
    beaten = threading.Semaphore(0)

    def claim() -> None:
        assert isinstance(run.ask(dispatch, claim_id="c1", owner=owner.name), Work)
        owner.confirm(held)

    to_come = [claim]

    def meanwhile() -> None:
        if to_come:
            to_come.pop()()
        beaten.release()

    store.meanwhile = meanwhile
    owner.hold(held)  # its claim is on its way, and the first heartbeat overtakes it
    for _ in range(3):
        assert beaten.acquire(timeout=20)

    assert cancelled == []
    assert owner.holds(held)
    owner.close()
    store.client.close()


def test_a_claim_whose_answer_never_came_is_given_back_and_rung_for(settings: Settings) -> None:
    store = Store(connect(settings.redis_url or ""), settings)
    run = DrivenRun(store, PLAN).start()
    run.commit(run.claim("begin"), FannedOut((event("A"),) * 2))
    rung: list[str] = []
    has_rung = threading.Event()

    def ring(run_id: str, dispatches: Sequence[Dispatch]) -> None:
        assert run_id == run.run_id
        rung.extend(dispatch.work_id for dispatch in dispatches)
        has_rung.set()

    owner = LeaseHolder("worker", Leases(store), lambda held, why: None, ring)
    mine, orphan = run.dispatch("work"), run.dispatch("work")
    claim_id = new_id()
    owner.hold(Held(run.run_id, mine.work_id, claim_id))
    run.ask(mine, claim_id=claim_id, owner=owner.name)
    run.ask(orphan, owner=owner.name)

    assert has_rung.wait(30)
    owner.close()

    assert rung == [orphan.work_id, mine.work_id]  # what it still has when it ends is given back too
