"""Handlers: names for series of runs that share a state; one script decides between concurrent starts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.chaos.observed import expiring_keys
from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, DrivenRun, dump, event, failed, plan_of, step, stop
from support.store.state_writer import BlockingHash
from umbel.orchestration.connection.keys import Keys, check_chosen_id, check_run_id, new_id, state_id_of
from umbel.orchestration.inspection.run_list import newest_handlers
from umbel.orchestration.model.decide import decide_start
from umbel.orchestration.model.envelope import CANCELLED, START, ending
from umbel.orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from umbel.orchestration.sessions.look import current_run, handler_record
from umbel.orchestration.sessions.names import LONGEST_NAME, new_run_of, session_of, state_id_for
from umbel.orchestration.snapshots.restore import begin_from
from umbel.orchestration.snapshots.saved import RunSnapshot
from umbel.orchestration.state.redis_hash import Change, StateHash
from umbel.orchestration.store.replies import Applied, Refusal

PLAN = plan_of(step("begin", START))
ALL = ("running", "completed", "failed", "cancelled", "timed_out")


def begin(store: Store, session: str, *, nonce: str | None = None, run_id: str | None = None) -> Any:
    """Start the next run of a session unless one is running; return its id or the refusal."""
    run_id = run_id or new_run_of(session)
    reply = store.start(
        run_id,
        PLAN,
        decide_start(PLAN, run_id, event(START), LIMITS),
        nonce=nonce or new_id(),
        timeout_seconds=None,
        when_busy="reject",
    )
    return run_id if isinstance(reply, Applied) else reply


def end(store: Store, run_id: str) -> None:
    assert store.finish(run_id, "cancelled", ending(CANCELLED))


# -- names -------------------------------------------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=LONGEST_NAME // 4).filter(
    lambda name: name.isprintable() and "/" not in name and name not in (".", "..")
)


@given(name=NAMES, other=NAMES)
def test_a_name_makes_a_run_id_that_contains_it(name: str, other: str) -> None:
    run_id = new_run_of(name)

    assert check_run_id(run_id) == run_id
    assert session_of(run_id) == name
    assert state_id_of(run_id) == state_id_for(name)
    assert (state_id_for(name) == state_id_for(other)) == (name == other)
    keys = Keys("p", 16)
    assert keys.of_run(run_id).shard == keys.of_run(new_run_of(name)).shard == keys.shard_of(state_id_for(name))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "\x00", "\ud800", "x" * 129, "é" * 65, 5, None])
def test_what_no_address_can_carry_is_no_name(name: Any) -> None:
    with pytest.raises(WorkflowRuntimeError, match="or the name of a session"):
        state_id_for(name)


def test_nobody_can_choose_the_id_of_a_handlers_run() -> None:
    for run_id in ("h.x", "a~40b", new_run_of("h")):
        with pytest.raises(WorkflowRuntimeError, match="cannot be a run id"):
            check_chosen_id(run_id)


# -- one run at a time -------------------------------------------------------------------------------------------------


def test_a_handler_is_at_the_run_that_was_started_last(store: Store) -> None:
    first = begin(store, "h")
    assert begin(store, "h") is Refusal.RUNNING
    assert store.call(handler_record, store, "h").run_id == first
    end(store, first)

    second = begin(store, "h")

    assert store.call(handler_record, store, "h").run_id == second != first
    assert session_of(second) == "h"
    assert store.run(second).state_id == "h"


def test_of_many_concurrent_starts_of_a_handler_one_succeeds(store: Store) -> None:
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: begin(store, "h"), range(16)))

        started = [reply for reply in replies if isinstance(reply, str) and reply != Refusal.RUNNING]
        assert len(started) == 1
        assert set(replies) - set(started) == {Refusal.RUNNING}
        assert store.call(current_run, store, "h") == started[0]
        end(store, started[0])


def test_a_start_whose_answer_was_lost_is_asked_again_and_answered_the_same(store: Store) -> None:
    about: dict[str, Any] = {"nonce": "n", "run_id": new_run_of("h")}
    first = begin(store, "h", **about)
    after = dump(store.client, store.settings.key_prefix)

    assert begin(store, "h", **about) == first
    assert dump(store.client, store.settings.key_prefix) == after


def test_a_run_that_another_process_started_under_the_name_is_continued(store: Store) -> None:
    DrivenRun(store, PLAN, "h").start()
    assert begin(store, "h") is Refusal.RUNNING
    end(store, "h")

    second = begin(store, "h")

    assert store.call(handler_record, store, "h").run_id == second
    assert store.locate(second).shard == store.locate("h").shard


def test_what_a_handler_is_called_no_other_run_can_be(store: Store) -> None:
    run_id = begin(store, "h")
    for _ in range(2):
        commands = decide_start(PLAN, "h", event(START), LIMITS)
        assert store.start("h", PLAN, commands, nonce=new_id(), timeout_seconds=None) is Refusal.EXISTS
        snapshot = RunSnapshot(workflow=PLAN.workflow, status="completed", state={"k": b"1"})
        about: dict[str, Any] = {"nonce": new_id(), "timeout_seconds": None, "options": {}}
        assert store.call(begin_from, store, "h", PLAN, snapshot, commands, LIMITS, **about) is Refusal.EXISTS
        assert store.over(StateHash, run_id, "h").read_all() == {}
        if store.run(run_id).status == "running":
            end(store, run_id)


def test_a_run_that_its_handler_has_left_behind_is_not_revived(store: Store) -> None:
    first = begin(store, "h")
    end(store, first)
    second = begin(store, "h")
    end(store, second)

    assert store.revive(first, timeout_seconds=None) == "superseded"
    assert isinstance(store.revive(second, timeout_seconds=None), Applied)
    assert begin(store, "h") is Refusal.RUNNING


# -- the state ---------------------------------------------------------------------------------------------------------


def test_the_state_goes_with_the_handler_and_lives_as_long_as_its_runs(store: Store) -> None:
    first = begin(store, "h")
    BlockingHash.of(store, first, "h").write(Change("set", set={"k": b"1"}))
    keys = store.locate(first)
    state, handler = keys["state:h"], keys["handler:h"]
    assert (store.client.pttl(state), store.client.pttl(handler)) == (-1, -1)
    end(store, first)
    assert store.client.pttl(state) > 0
    assert store.client.pttl(handler) > 0

    second = begin(store, "h")

    assert BlockingHash.of(store, second, "h").read_all() == {"k": b"1"}
    assert (store.client.pttl(state), store.client.pttl(handler)) == (-1, -1)
    assert store.client.pttl(store.locate(first)["run"]) > 0


@pytest.mark.parametrize("replace", [False, True])
def test_a_write_through_an_earlier_runs_handle_gives_no_key_of_the_running_run_a_lifetime(
    store: Store, replace: bool
) -> None:
    first = begin(store, "h")
    end(store, first)
    second = begin(store, "h")
    keys = store.locate(second)

    BlockingHash.of(store, first, "h").write(Change("set", set={"k": b"1"}, replace=replace))

    assert (store.client.pttl(keys["state:h"]), store.client.pttl(keys["handler:h"])) == (-1, -1)
    kept = [key.decode() for key in store.client.scan_iter(f"{store.settings.key_prefix}:*", count=1000)]
    assert expiring_keys(store, kept) == []
    store.client.pexpire(keys["state:h"], 60_000)
    store.client.pexpire(keys["work"], 60_000)
    assert set(expiring_keys(store, kept)) == {keys["state:h"], keys["work"]} & set(kept)
    end(store, second)
    BlockingHash.of(store, first, "h").write(Change("set", set={"k": b"2"}))
    assert store.client.pttl(keys["state:h"]) > 0


def test_a_late_step_of_the_last_run_does_not_write_into_the_next_one(store: Store) -> None:
    run = DrivenRun(store, PLAN, new_run_of("h"))
    commands = decide_start(PLAN, run.run_id, event(START), LIMITS)
    run.heard(store.start(run.run_id, PLAN, commands, nonce="n", timeout_seconds=None, when_busy="reject"))
    work = run.claim("begin")
    assert work.state_id == "h"
    end(store, run.run_id)
    second = begin(store, "h")

    with pytest.raises(Exception, match="ended"):
        BlockingHash.of(store, run.run_id, "h", work).write(Change("set", set={"k": b"late"}))

    assert BlockingHash.of(store, second, "h").read_all() == {}


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_purging_leaves_nothing(store: Store) -> None:
    run = DrivenRun(store, PLAN, new_run_of("h"))
    commands = decide_start(PLAN, run.run_id, event(START), LIMITS)
    run.heard(store.start(run.run_id, PLAN, commands, nonce="n", timeout_seconds=9, when_busy="reject"))
    store.over(StateHash, run.run_id, "h").write(Change("set", set={"k": b"1"}))
    run.commit(run.claim("begin"), failed())
    assert store.run(run.run_id).status == "failed"

    assert store.purge(run.run_id)

    left = dump(store.client, store.settings.key_prefix)
    # The reply of the last commit is kept for a minute, in case the commit is repeated.
    left = [key for key in left if ":answer:" not in key]
    mine = [key for key in left if run.run_id in key or key.endswith((":state:h", ":handler:h"))]
    assert mine == []
    assert store.call(newest_handlers, store, lambda _: True, statuses=ALL, limit=9).records == []
    with pytest.raises(RunNotFound):
        store.call(handler_record, store, "h")


def test_a_run_that_is_running_is_not_purged(store: Store) -> None:
    run_id = begin(store, "h")

    assert not store.purge(run_id)
    assert store.run(run_id).status == "running"


def test_purging_an_earlier_run_leaves_the_handler_alone(store: Store) -> None:
    first = begin(store, "h")
    BlockingHash.of(store, first, "h").write(Change("set", set={"k": b"1"}))
    end(store, first)
    second = begin(store, "h")

    assert store.purge(first)

    assert store.call(handler_record, store, "h").run_id == second
    assert store.over(StateHash, second, "h").read_all() == {"k": b"1"}


# -- lists -------------------------------------------------------------------------------------------------------------


def test_a_list_shows_each_handler_once_and_where_it_is(store: Store) -> None:
    plain = DrivenRun(store, PLAN).start()
    plain.commit(plain.claim("begin"), stop(1))
    DrivenRun(store, PLAN, "h").start()
    end(store, "h")
    for _ in range(2):
        last = begin(store, "h")
        end(store, last)
    going = begin(store, "other")

    def listed(**query: Any) -> list[str]:
        options = {"wanted": lambda _: True, "statuses": ALL, "limit": 9} | query
        return [record.run_id for record in store.call(newest_handlers, store, **options).records]

    assert set(listed()) == {plain.run_id, last, going}
    assert listed(statuses=["running"]) == [going]
    assert listed(wanted=lambda record: record.run_id == going) == [going]


def test_pages_of_handlers_follow_each_other_and_lose_none(store: Store) -> None:
    begun = [begin(store, f"h{n}") for n in range(5)]
    end(store, begun[0])
    again = begin(store, "h0")

    for limit in (1, 2, 4, 5):
        seen: list[str] = []
        cursor = None
        while True:
            page = store.call(newest_handlers, store, lambda _: True, statuses=ALL, limit=limit, cursor=cursor)
            assert len(page.records) <= limit
            seen += [record.run_id for record in page.records]
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(seen) == sorted([again, *begun[1:]])
