"""Wherever a process dies during a rewind, the run is unchanged or rewound, and can be rewound again."""

from __future__ import annotations

from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches
from support.store.driving import LIMITS, DrivenRun, event
from support.store.mortal import Died, mortal_store
from support.store.verb_cases import PLAN
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.history.forks import going_on
from umbel.orchestration.history.forks.edits import Edits
from umbel.orchestration.history.points import Where, point_at
from umbel.orchestration.history.verify import verify
from umbel.orchestration.model.work_item import FannedOut
from umbel.orchestration.snapshots import restore
from umbel.orchestration.store.replies import Refusal


def put_back(store: Store, run_id: str) -> None:
    point = store.call(point_at, store, run_id, Where(step="begin"))
    store.call(
        going_on.rewind,
        store.over(Engine, SentDispatches()),
        point,
        Edits(),
        LIMITS,
        announcement=event("Rewound"),
        stop_running=True,
        timeout_seconds=None,
    )


def branch_of(store: Store, run: DrivenRun) -> int:
    return int(store.client.hget(run.keys["run"], "branch") or 0)


@pytest.mark.parametrize("applied", [False, True])
def test_a_rewind_that_is_cut_off_at_any_moment_has_happened_or_not(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    for module in (going_on, restore):
        monkeypatch.setattr(module, "PART", 4)
    dies_at, completed, branches = 0, False, []
    while not completed:
        dies_at += 1
        run = DrivenRun(store, PLAN).start()
        run.commit(run.claim("begin"), FannedOut((*(event("A") for _ in range(9)), event("M"))))
        stale = run.claim("work")
        other = mortal_store(store.client, settings, dies_at, applied=applied)
        try:
            put_back(other, run.run_id)
            completed = True
        except Died:
            pass
        branches.append(branch_of(store, run))
        found: Any = store.call(verify, store, run.run_id)
        assert found.holds, "\n".join(map(str, found.differences))

        put_back(store, run.run_id)

        assert branch_of(store, run) == branches[-1] + 1
        assert int(store.client.hget(run.keys["run"], "live")) == 9
        assert isinstance(run.try_commit(stale, FannedOut(())), Refusal)
        found = store.call(verify, store, run.run_id)
        assert found.holds, "\n".join(map(str, found.differences))
        assert all(store.client.pttl(key) > 0 for key in store.client.scan_iter("*:rebuilt:*"))
    assert branches[0] == 0
    assert branches[-1] == 1
