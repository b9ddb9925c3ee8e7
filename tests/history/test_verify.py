"""A run that is rebuilt from its journal equals the run, whatever was done to it and wherever it is."""

from __future__ import annotations

from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, event
from support.store.verb_cases import CASES, PLAN
from umbel.orchestration.history.calls import FUNCTIONS
from umbel.orchestration.history.verify import verify
from umbel.orchestration.model.work_item import FannedOut
from umbel.orchestration.store.scripts import declared, load, names, text_of


def verified(store: Store, run_id: str) -> Any:
    return store.call(verify, store, run_id)


#: The other cases change a run by hand.
RECORDED = [name for name in CASES if name != "advance"]


@pytest.mark.parametrize("name", RECORDED)
def test_what_a_verb_has_done_is_rebuilt(store: Store, name: str) -> None:
    CASES[name](store).ask()

    pattern = f"{store.settings.key_prefix}:*:run:*:journal"
    runs = [key.decode().split(":run:")[1].removesuffix(":journal") for key in store.client.scan_iter(pattern)]
    for run_id in runs:
        found = verified(store, run_id)
        assert found.holds, "\n".join(map(str, found.differences))
    assert runs or name in ("purge", "open a session")
    assert not list(store.client.scan_iter(f"{store.settings.key_prefix}:*:rebuilt:*"))


def test_what_is_not_as_the_journal_has_it_is_named(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    work = run.claim("begin")
    run.commit(work, FannedOut((event("A"), event("M"))))
    store.client.hset(run.keys["scopes"], "other", "1")
    store.client.hincrby(run.keys["run"], "live", 1)

    found = verified(store, run.run_id)

    assert [(each.key, each.field) for each in found.differences] == [("run", "live"), ("scopes", "other")]
    assert str(found.differences[0]) == "run[live]: expected b'1', found b'2'"


def test_a_timer_that_a_running_run_lacks_is_named(store: Store) -> None:
    run = DrivenRun(store, PLAN).start(timeout_seconds=100)
    assert verified(store, run.run_id).holds
    store.client.zremrangebyrank(run.keys["timers"], 0, -1)

    found = verified(store, run.run_id)

    assert [each.key for each in found.differences] == ["timers"]


#: Verbs on runs that need no journal entry of their own: another entry covers them, or they do not change the run.
NO_ENTRY = {
    "hop": "the entry of a commit",
    "advance": "the entry of the run that begins",
    "purge": "deletes the journal too",
    "replay": "on keys of its own",
    "state_back": "the entry of a state write",
    "open": "a session without runs",
    "close": "a session without runs",
    "state_lock": "a lock is no part of a run",
    "state_renew": "a lock is no part of a run",
    "log": "what a step logs says nothing about where the run is",
    "hold": "nor does when unclaimed work is looked at again",
}


def test_each_verb_that_writes_to_a_run_can_be_done_again() -> None:
    writing = {
        verb for verb in names() if "run" in load(verb).keys and "no-writes" not in declared(text_of(verb), "flags")
    }

    assert writing - {function for function, _ in FUNCTIONS.values()} == set(NO_ENTRY)
