"""What a heartbeat may take from its owner and what not; work that it hands back is dispatched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore, SentDispatches, blocking_store
from support.store.driving import DrivenRun, event, plan_of, step
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut, Held, Work
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.verbs import Store
from umbel.tasks.owner.heartbeat import LeaseHolder
from umbel.workers.embedded.redis_server import EmbeddedRedis

T = TypeVar("T")

PLAN = plan_of(step("begin", START), step("work", "A", num_workers=10))


class SlowStore(Store):
    """Calls `meanwhile` after Redis has answered a heartbeat and before the lease holder reads the reply."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    async def send_script(self, call: ScriptCall[T]) -> T:
        reply = await super().send_script(call)
        if call.script.name == "heartbeat":
            await asyncio.to_thread(self.meanwhile)
        return reply


@pytest.fixture
def settings() -> Iterator[Settings]:
    with EmbeddedRedis.temporary(append_only=False) as server:
        yield Settings(redis_url=server.url, heartbeat_seconds=0.05, lease_seconds=60)


def holder(store: BlockingStore, dispatcher: SentDispatches, cancelled: list[Held]) -> LeaseHolder:
    engine = Engine(store.wrapped, dispatcher)
    return LeaseHolder("w", engine, store.portal, lambda held, _: cancelled.append(held))


def test_a_claim_that_is_answered_while_a_heartbeat_is_under_way_is_not_taken_for_lost(settings: Settings) -> None:
    store = blocking_store(settings, kind=SlowStore)
    run = DrivenRun(blocking_store(settings, store.client), PLAN).start()
    cancelled: list[Held] = []
    owner = holder(store, SentDispatches(), cancelled)
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

    store.wrapped.meanwhile = meanwhile
    owner.hold(held)  # its claim is in flight, and the first heartbeat overtakes it
    for _ in range(3):
        assert beaten.acquire(timeout=20)

    assert cancelled == []
    assert owner.holds(held)
    owner.close()
    store.client.close()


def test_a_claim_whose_answer_never_came_is_given_back_and_dispatched(settings: Settings) -> None:
    store = blocking_store(settings)
    run = DrivenRun(store, PLAN).start()
    run.commit(run.claim("begin"), FannedOut((event("A"),) * 2))
    dispatcher = SentDispatches()
    owner = holder(store, dispatcher, [])
    mine, orphan = run.dispatch("work"), run.dispatch("work")
    claim_id = new_id()
    owner.hold(Held(run.run_id, mine.work_id, claim_id))
    run.ask(mine, claim_id=claim_id, owner=owner.name)
    run.ask(orphan, owner=owner.name)

    eventually(lambda: dispatcher.sent, "something was given back")
    owner.close()

    # When it closes, it hands back what it still holds, too.
    assert [each.work_id for each in dispatcher.sent] == [orphan.work_id, mine.work_id]
