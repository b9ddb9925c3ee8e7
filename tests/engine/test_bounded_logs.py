"""The journal and the inbox of a run are limited in bytes, and cuts are reported."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.driving import DrivenRun, event, plan_of, step, stop
from umbel.orchestration.inspection.run_detail import read_detail
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import Returned
from umbel.orchestration.store.journal import Extent, extent

PLAN = plan_of(step("begin", START), step("again", "Next"))
BYTES = 200_000


@pytest.fixture
def run(store: Store) -> DrivenRun:
    bounded = store.settings.model_copy(update={"journal_max_bytes": BYTES, "inbox_max_bytes": BYTES})
    return DrivenRun(blocking_store(bounded, store.client), PLAN).start()


def turn(run: DrivenRun, size: int) -> None:
    run.commit(run.claim("again"), Returned(event("Next", text="x" * size)))


def used(run: DrivenRun, name: str) -> int:
    return int(run.store.client.memory_usage(run.keys[name], samples=0))


@pytest.mark.parametrize(("size", "turns"), [(100, 1_500), (20_000, 60), (300_000, 5)])
def test_a_journal_keeps_its_newest_entries_within_its_bytes(run: DrivenRun, size: int, turns: int) -> None:
    run.commit(run.claim("begin"), Returned(event("Next")))
    seen = []
    for _ in range(turns):
        turn(run, size)
        seen.append(used(run, "journal"))

    newest = 2 * size + 2_000
    assert max(seen) <= 1.5 * BYTES + newest
    run.commit(run.claim("again"), stop("done"))
    journal = run.store.journal(run.run_id)
    assert journal[-1][1] == "commit"
    cut = run.store.call(extent, run.store, run.run_id).first - 1
    assert cut > 0
    assert cut + len(journal) == 2 * turns + 5
    detail = run.store.call(read_detail, run.store, run.run_id)
    assert detail.journal_left_out + len(detail.journal) == 2 * turns + 5


def test_a_journal_that_fits_is_whole(run: DrivenRun) -> None:
    run.commit(run.claim("begin"), stop("done"))

    assert run.store.call(extent, run.store, run.run_id) == Extent(1, 3, 1)
    assert [kind for _, kind, _ in run.store.journal(run.run_id)] == ["start", "claim", "commit"]


@pytest.mark.parametrize(("size", "events"), [(200, 900), (20_000, 40), (300_000, 3)])
def test_an_inbox_keeps_its_newest_events_within_its_bytes(run: DrivenRun, size: int, events: int) -> None:
    seen = []
    for n in range(events):
        run.send(event("Unknown", n=n, text="x" * size))
        seen.append(used(run, "inbox"))

    assert max(seen) <= 1.5 * BYTES + 2 * size + 2_000
    kept = [each.event.value()["n"] for each in run.store.surroundings(run.run_id).inbox]
    assert kept == list(range(events))[-len(kept) :]
    assert 0 < len(kept) < events
