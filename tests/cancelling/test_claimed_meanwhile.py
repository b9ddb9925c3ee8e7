"""Work that changes between being looked up and being cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.driving import DrivenRun, event, plan_of, step, waiting
from umbel.orchestration.engine.cancelling.selection import Selection
from umbel.orchestration.engine.cancelling.step_cancels import cancel_work
from umbel.orchestration.model.decide import Limits
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut, Returned, Work
from umbel.orchestration.snapshots.take import take_snapshot
from umbel.orchestration.store.record import decode
from umbel.orchestration.store.verbs import Store as AnyStore


@pytest.mark.parametrize("is_known_to_run", [True, False], ids=["seen-running", "seen-ready"])
def test_work_that_was_claimed_meanwhile_is_cancelled_too(store: Store, is_known_to_run: bool) -> None:
    run = DrivenRun(store, plan_of(step("go", START)))
    run.start()
    work = run.claim("go", owner="o1")
    item = {"w": work.work_id, "d": event("Cancelled").to_bytes(), "commands": []}
    owner = {"owner:o1": run.keys["owner:o1"]}

    if is_known_to_run:
        reply = store.verb("cancel", run.run_id, body=[item | {"o": "owner:o1"}], extra=owner)
    else:
        reply = store.verb("cancel", run.run_id, body=[item])

    assert reply[0] == b"cancelled"
    assert int(reply[2]) == 1
    assert store.client.hexists(run.keys["work"], work.work_id) == 0
    assert bool(store.client.exists(owner["owner:o1"])) is not is_known_to_run


class Interrupted(AnyStore):
    """A store that runs `meanwhile` once, after its first look at the live work of a run."""

    meanwhile: Callable[[], object] | None = None

    async def batch(self, what: str, *items: Any) -> list[Any]:
        found = await super().batch(what, *items)
        meanwhile = self.meanwhile
        if what == "look at live work" and meanwhile is not None:
            self.meanwhile = None
            await asyncio.to_thread(meanwhile)
        return found


def cancelled(run: DrivenRun, meanwhile: Callable[[], object]) -> int:
    """Cancel step `go` while `meanwhile` happens after the first look at its work; return how many were cancelled."""
    store = blocking_store(run.store.settings, run.store.client, Interrupted)
    store.wrapped.meanwhile = meanwhile
    count, _ = store.call(cancel_work, store, run.run_id, run.plan, Selection(step="go"), Limits())
    return int(count)


def test_a_step_that_begins_to_wait_as_it_is_cancelled_leaves_nothing_that_waits(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("go", START, num_workers=2), step("other", "B"))).start()
    work = run.claim("go")

    assert cancelled(run, lambda: run.commit(work, waiting(work))) == 1

    run.send(event("Answer"))
    assert store.client.hlen(run.keys["waiters"]) == store.client.hlen(run.keys["work"]) == 0
    assert store.run(run.run_id).asleep == 0


def test_a_step_that_waits_for_something_else_by_then_leaves_nothing_that_waits(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("go", START, num_workers=2), step("other", "B"))).start()
    work = run.claim("go")
    run.commit(work, waiting(work, "first"))

    def wait_again() -> None:
        run.send(event("Answer"))
        again = run.claim("go")
        run.commit(again, waiting(again, "second"))

    assert cancelled(run, wait_again) == 1
    assert store.client.hlen(run.keys["waiters"]) == store.client.hlen(run.keys["work"]) == 0


def test_a_step_that_is_woken_into_the_queue_as_it_is_cancelled_is_not_executed(store: Store) -> None:
    plan = plan_of(step("begin", START), step("go", "A", num_workers=1))
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut((event("A"), event("A"), event("A"))))
    first = run.claim("go")
    run.commit(first, waiting(first))
    run.claim("go")  # takes the slot; one more is queued

    assert cancelled(run, lambda: run.send(event("Answer"))) == 3
    assert store.client.hlen(run.keys["work"]) == 0
    assert [each for each in run.dispatches if isinstance(run.ask(each), Work)] == []


def test_what_is_queued_ends_as_it_is_cancelled_and_is_passed_over_by_what_frees_the_slot(store: Store) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("all",)),
        step("split", "Part", num_workers=2, collected_by=("inner",)),
        step("go", "Piece", num_workers=1),
        step("inner", "Went", kind="collect"),
        step("all", "Inner", kind="collect"),
    )
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut((event("Part"), event("Part"))))
    for _ in range(2):
        run.commit(run.claim("split"), FannedOut((event("Piece", n=1), event("Piece", n=2))))
    first = run.claim("go")  # the others wait for its slot; the last two belong to another fan-out
    queued = [name.decode() for name in store.client.hkeys(run.keys["queue"]) if name[-2:] not in (b":h", b":t")]
    assert len(queued) == 3
    records = [decode(raw) for raw in store.client.hmget(run.keys["queue"], queued)]
    last = frozenset(record.work_id for record in records if record.scope != first.scope.path)

    count, changes = store.call(cancel_work, store, run.run_id, plan, Selection(work_ids=last), Limits())
    for change in changes:
        run.heard(change)
    inner = run.claim("inner")  # of the fan-out that has no more members to come
    run.commit(first, Returned(event("Went")))

    assert (count, inner.members) == (2, 0)
    assert sorted(item.step for item in store.call(take_snapshot, store, run.run_id).items) == ["go", "inner"]
    run.commit(run.claim("go"), Returned(event("Went")))
    assert run.claim("inner").members == 2
