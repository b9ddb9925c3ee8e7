"""Every verb may be called twice: the reply is the same or says that it is done, and Redis does not change again.

A lost reply is the most ordinary of all faults; this is the table of what the repeated call returns.
"""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, NOTHING, DrivenRun, dump, event
from support.store.verb_cases import CASES, PLAN, claimed
from umbel.orchestration.model.decide import decide
from umbel.orchestration.model.waiters import Surroundings
from umbel.orchestration.model.work_item import FannedOut, Work
from umbel.orchestration.store.replies import Refusal
from umbel.orchestration.store.scripts import names

#: A repeated call deliberately dispatches again: a superfluous dispatch does no harm, a missing one costs a back-off.
RINGS_AGAIN = {"redispatch"}

#: Read-only.
READS = {"glances", "past"}
#: Works on its own keys; `tests/history` calls it twice.
REBUILDS = {"replay"}
#: The second call finds that the first one has just checked.
TAKES_TURNS = {"look"}


@pytest.mark.parametrize("name", CASES)
def test_asking_twice_is_as_good_as_once(store: Store, name: str) -> None:
    case = CASES[name](store)
    first = case.ask()
    assert not isinstance(first, Refusal), first
    after = dump(store.client, store.settings.key_prefix, without=("counters",))

    second = case.ask()

    assert second == (first if case.again is None else case.again(first))
    assert dump(store.client, store.settings.key_prefix, without=("counters",)) == after


def test_every_verb_is_in_the_table() -> None:
    asked = {name.split()[0] for name in CASES} | {"lose"}

    assert {name for name in names() if not name.startswith("state_")} == (
        asked - {"release"}
    ) | RINGS_AGAIN | READS | TAKES_TURNS | REBUILDS


def test_redispatching_twice_dispatches_one_item_twice(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    item = (run.dispatches[0].work_id, "umbel/0")

    first, second = (run.leases.redispatch(run.run_id, [item]).dispatches for _ in range(2))

    assert [dispatch.dispatch_no for dispatch in (*first, *second)] == [2, 3]
    assert isinstance(run.ask(first[0]), Work)
    assert run.ask(second[0]) is Refusal.BUSY


def test_a_decision_is_not_applied_on_top_of_its_refusal(store: Store) -> None:
    run, work = claimed(store)
    decision = decide(PLAN, work, FannedOut((event("A"),)), Surroundings(7), LIMITS)
    before = dump(store.client, store.settings.key_prefix)

    for _ in range(2):
        assert store.commit(work, PLAN, decision, surroundings=Surroundings(7), batches=0, entry={}) is Refusal.CHANGED
        assert store.commit(work, PLAN, decision, surroundings=NOTHING, batches=3, entry={}) is Refusal.MISSING
    assert dump(store.client, store.settings.key_prefix) == before
    assert run.status == "running"
