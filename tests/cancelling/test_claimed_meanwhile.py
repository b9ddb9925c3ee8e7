"""Work that is claimed between the look at it and its cancelling."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, event, plan_of, step
from umbel.orchestration.model.envelope import START


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
