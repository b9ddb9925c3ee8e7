"""A run's state in Redis: who may write, the edit lock, and the journal. The invariants are in `redis_hash.py`."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import msgpack
import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.checks import checked_store
from support.store.driving import DrivenRun, plan_of, step, stop
from support.store.state_writer import BlockingHash, DeafStore, beside
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.errors import RunClosed
from umbel.orchestration.model.work_item import Returned, Work
from umbel.orchestration.state.redis_hash import Change, Occupied
from umbel.orchestration.store.scripts import unpack

PLAN = plan_of(step("a", START), step("b", START))


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, PLAN).start()


def writer(run: DrivenRun, work: Work | None = None, **options: Any) -> BlockingHash:
    return BlockingHash.of(run.store, run.run_id, run.run_id, work, **options)


def put(**values: bytes) -> Change:
    return Change("set", values)


def state_entries(run: DrivenRun) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in run.content("journal") if fields[b"k"] == b"state"]


def key(run: DrivenRun, rest: str = "") -> str:
    return run.keys[f"state:{run.run_id}{rest}"]


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_step_writes_and_everybody_reads_it(run: DrivenRun) -> None:
    state = writer(run, run.claim("a"))

    assert state.write(Change("set", {"n": b"1", "text": "é".encode()})) == "written"
    assert state.write(Change("set", {"n": b"2"}, delete=["text"])) == "written"

    assert writer(run).read("n") == b"2"
    assert writer(run).read("text") is None
    assert writer(run).read_all() == {"n": b"2"}


def test_replacing_drops_what_is_not_named(run: DrivenRun) -> None:
    state = writer(run, run.claim("a"))
    state.write(put(old=b"1", kept=b"2"))
    state.write(Change("set_state", {"kept": b"3"}, replace=True))

    assert state.read_all() == {"kept": b"3"}


def test_any_bytes_are_stored_as_they_are(run: DrivenRun) -> None:
    state = writer(run, run.claim("a"))
    values = {"empty": b"", "zero": b"\x00\xff", "list": b"[]", "big": b"12345678901234567890", "k ey|:é": b"{}"}
    state.write(Change("set", values))

    assert state.read_all() == values


def test_each_write_is_in_the_journal_with_its_values(run: DrivenRun) -> None:
    work = run.claim("a")
    writer(run, work).write(Change("edit_state", {"n": b"1"}, delete=["m"]))

    [entry] = state_entries(run)
    said = unpack(entry[b"d"])
    assert said == {"w": work.work_id, "s": "a", "how": "edit_state", "set": ["n"], "del": ["m"], "v": 1}
    assert unpack(entry[b"c"]) == {"set": {"n": "1"}, "del": ["m"], "replace": None}


def test_a_summary_journal_has_no_values(client: Client, settings: Settings) -> None:
    store = checked_store(client, settings.model_copy(update={"history": "summary"}))
    run = DrivenRun(store, PLAN).start()
    writer(run, run.claim("a")).write(put(n=b"1"))

    [entry] = state_entries(run)
    assert set(entry) == {b"k", b"d"}
    assert unpack(entry[b"d"])["set"] == ["n"]


def test_a_write_whose_reply_was_lost_is_applied_once(run: DrivenRun) -> None:  # invariant 3
    store = DeafStore(beside(run.store).connection, run.store.settings)
    state = BlockingHash(store, run.run_id, run.run_id, run.claim("a"))

    store.deaf = True
    assert state.write(put(n=b"1"), expect={"n": None}) == "written"
    assert len(state_entries(run)) == 1

    assert isinstance(state.lock("mine"), dict)
    store.deaf = True
    assert state.write(put(n=b"2"), lock="mine") == "written"
    assert len(state_entries(run)) == 2
    assert state.read_all() == {"n": b"2"}


def test_a_write_made_from_an_older_value_changes_nothing(run: DrivenRun) -> None:
    state = writer(run, run.claim("a"))
    state.write(put(n=b"1"))

    assert state.write(put(n=b"9"), expect={"n": b"0"}) == "changed"
    assert state.write(put(n=b"9"), expect={"n": None}) == "changed"
    assert state.write(put(n=b"9"), expect={"n": b"1", "other": b"x"}) == "changed"
    assert state.read_all() == {"n": b"1"}
    assert state.write(put(n=b"2"), expect={"n": b"1", "other": None}) == "written"
    assert len(state_entries(run)) == 2


# -- who may write -----------------------------------------------------------------------------------------------------


def assert_refused(run: DrivenRun, state: BlockingHash, because: str) -> None:
    before = (run.content(f"state:{run.run_id}"), run.content("journal"))
    for attempt in (lambda: state.write(put(n=b"9")), lambda: state.lock("zombie")):
        with pytest.raises(RunClosed, match=because) as caught:
            attempt()
        assert run.run_id in str(caught.value)
        assert "'a'" in str(caught.value)
        assert caught.value.claim_id  # by this the worker knows that it is about this attempt
    assert (run.content(f"state:{run.run_id}"), run.content("journal")) == before
    assert run.store.client.exists(key(run, ":lock")) == 0


def test_a_process_that_was_declared_lost_never_writes(run: DrivenRun) -> None:  # invariant 1
    zombie = run.claim("a")
    held = Held(run.run_id, zombie.work_id, zombie.claim_id)
    for _, applied in run.leases.hand_back("o1", [held], charge=True):
        run.heard(applied)
    assert_refused(run, writer(run, zombie), "another process has taken over")

    successor = run.claim("a", owner="o2")
    assert successor.work_id == zombie.work_id
    assert_refused(run, writer(run, zombie), "another process has taken over")
    assert writer(run, successor).write(put(n=b"1")) == "written"


def test_a_step_that_has_reported_its_outcome_never_writes(run: DrivenRun) -> None:  # invariant 1
    work = run.claim("a")
    writer(run, work).write(put(n=b"1"))
    run.commit(work, Returned(None))

    assert_refused(run, writer(run, work), "reported its outcome")


def test_a_step_of_an_ended_run_never_writes(run: DrivenRun) -> None:  # invariant 1
    work = run.claim("a")
    writer(run, work).write(put(n=b"1"))
    run.commit(run.claim("b"), stop())

    assert_refused(run, writer(run, work), "the run has ended")


def test_an_edit_whose_step_was_lost_meanwhile_is_not_written_and_lets_go(run: DrivenRun) -> None:
    work = run.claim("a")
    state = writer(run, work)
    state.lock("edit")
    run.leases.hand_back("o1", [Held(run.run_id, work.work_id, work.claim_id)], charge=True)

    with pytest.raises(RunClosed):
        state.write(put(n=b"9"), lock="edit")

    assert writer(run).read_all() == {}
    assert isinstance(writer(run).lock("next"), dict)


def test_renewing_prolongs_the_life_of_a_lock(run: DrivenRun) -> None:
    state = writer(run, run.claim("a"), lock_seconds=60)
    state.lock("edit")
    run.store.client.pexpire(key(run, ":lock"), 10_000)

    assert state.renew("another") is False
    assert run.store.client.pttl(key(run, ":lock")) <= 10_000
    assert state.renew("edit") is True
    assert run.store.client.pttl(key(run, ":lock")) > 10_000


def test_the_lock_of_a_step_that_was_lost_is_not_renewed(run: DrivenRun) -> None:
    work = run.claim("a")
    state = writer(run, work)
    state.lock("edit")
    run.leases.hand_back("o1", [Held(run.run_id, work.work_id, work.claim_id)], charge=True)

    assert state.renew("edit") is False
    assert isinstance(writer(run).lock("next"), dict)


# -- lifetime ----------------------------------------------------------------------------------------------------------


def test_a_seed_for_a_run_that_never_starts_expires(store: Store) -> None:
    seeded = DrivenRun(store, PLAN)
    writer(seeded).write(put(n=b"1"))

    for name in (f"state:{seeded.run_id}", "journal"):
        assert 0 < store.client.pttl(seeded.keys[name]) <= store.settings.retention_seconds * 1000


def test_the_state_of_a_running_run_stays(run: DrivenRun) -> None:
    writer(run, run.claim("a")).write(put(n=b"1"))
    writer(run).write(put(m=b"1"))

    assert run.store.client.pttl(key(run)) == -1


def test_a_write_after_the_end_does_not_prolong_the_retention(run: DrivenRun) -> None:
    writer(run).write(put(n=b"1"))
    run.commit(run.claim("a"), stop())
    run.store.client.pexpire(key(run), 60_000)

    writer(run).write(put(n=b"2"))
    writer(run).write(Change("clear", {"n": b"3"}, replace=True))

    assert 0 < run.store.client.pttl(key(run)) <= 60_000
    assert run.store.client.pttl(run.keys["journal"]) > 0


def test_a_state_made_after_the_end_expires_too(run: DrivenRun) -> None:
    run.commit(run.claim("a"), stop())
    writer(run).write(put(n=b"2"))

    assert run.store.client.pttl(key(run)) > 0


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_during_an_edit_no_other_process_writes_and_all_can_read(run: DrivenRun) -> None:  # invariant 2
    writer(run).write(put(n=b"1"))
    editor, other = writer(run, run.claim("a")), writer(run, run.claim("b"))

    assert editor.lock("edit") == {"n": b"1"}
    assert other.lock("second") == Occupied("edit")
    assert other.write(put(n=b"9")) == Occupied("edit")
    assert writer(run).write(put(n=b"9")) == Occupied("edit")
    assert other.read_all() == {"n": b"1"}

    assert editor.write(put(n=b"2"), lock="edit") == "written"
    assert other.lock("second") == {"n": b"2"}


def test_asking_for_a_lock_again_gives_the_same_answer(run: DrivenRun) -> None:
    store = DeafStore(beside(run.store).connection, run.store.settings)
    store.deaf = True

    assert BlockingHash(store, run.run_id, run.run_id).lock("edit") == {}
    assert writer(run).lock("edit") == {}


def test_an_abandoned_edit_changes_nothing_and_lets_the_next_one_in(run: DrivenRun) -> None:
    state = writer(run)
    state.lock("edit")
    state.unlock("edit")

    assert state.lock("next") == {}
    state.unlock("edit")
    assert state.lock("third") == Occupied("next")


def test_the_lock_of_a_dead_editor_runs_out_and_then_it_cannot_write(run: DrivenRun) -> None:  # invariant 2
    dead = writer(run, run.claim("a"), lock_seconds=0.05)
    dead.lock("dead")
    eventually(lambda: isinstance(writer(run).lock("next"), dict), "the lock runs out")

    assert dead.write(put(n=b"9"), lock="dead") == "lost"
    assert dead.renew("dead") is False
    assert writer(run).write(put(n=b"1"), lock="next") == "written"
    assert dead.write(put(n=b"9"), lock="dead") == "lost"
    assert writer(run).read_all() == {"n": b"1"}


def ask_to_lock(run: DrivenRun, process: str, token: str, **more: Any) -> bytes:
    """Ask for the lock as another process would."""
    name = f"state:{run.run_id}"
    names = {"state": name, "lock": f"{name}:lock", "next": f"{name}:lock:next"}
    answer: bytes = run.store.verb("state_lock", run.run_id, names, lock=token, me=process, px=60_000, **more)[0]
    return answer


def test_a_process_that_waited_long_goes_next(run: DrivenRun) -> None:
    assert ask_to_lock(run, "greedy", "g1") == b"locked"
    assert ask_to_lock(run, "patient", "p1", reserve=True) == b"held"
    writer(run).unlock("g1")

    assert ask_to_lock(run, "greedy", "g2") == b"held"
    assert ask_to_lock(run, "patient", "p1") == b"locked"
    writer(run).unlock("p1")
    assert ask_to_lock(run, "greedy", "g2") == b"locked"


def test_a_write_without_the_lock_that_waited_long_goes_next_and_then_lets_the_others_in(run: DrivenRun) -> None:
    assert ask_to_lock(run, "greedy", "g1") == b"locked"
    assert writer(run).write(put(n=b"1"), reserve=True) == Occupied("g1")
    writer(run).unlock("g1")

    assert ask_to_lock(run, "greedy", "g2") == b"held"
    assert writer(run).write(put(n=b"1")) == "written"
    assert ask_to_lock(run, "greedy", "g2") == b"locked"


def test_a_process_that_vanished_after_it_queued_is_skipped(run: DrivenRun) -> None:
    ask_to_lock(run, "greedy", "g1")
    ask_to_lock(run, "vanished", "v1", reserve=True)
    writer(run).unlock("g1")

    eventually(lambda: ask_to_lock(run, "greedy", "g2") == b"locked", "the reservation runs out")


def test_expectations_are_compared_as_digests(run: DrivenRun) -> None:
    """A value of several MB is not sent to Redis only to be compared."""
    big = b"x" * 300_000
    state = writer(run)
    state.write(put(big=big))
    before = run.store.client.info()["total_net_input_bytes"]
    assert state.write(put(n=b"1"), expect={"big": big}) == "written"

    assert run.store.client.info()["total_net_input_bytes"] - before < 100_000
    assert len(hashlib.sha1(big).hexdigest()) == 40


def restored(run: DrivenRun) -> dict[bytes, bytes]:
    """Return the state that the journal alone gives."""
    state: dict[bytes, bytes] = {}
    for entry in state_entries(run):
        change = msgpack.unpackb(entry[b"c"], raw=True)
        before = dict(state)
        if change.get(b"replace"):
            state.clear()
        for field in change[b"del"]:
            state.pop(field, None)
        for field, value in change[b"set"].items() if change[b"set"] else ():
            if isinstance(value, list):
                front, back, between = value
                old = before[field]
                value = old[:front] + between + old[len(old) - back :]
            state[field] = value
    return state


def test_a_large_value_that_is_edited_often_is_not_kept_as_often(run: DrivenRun) -> None:
    state = writer(run, run.claim("a"))
    text = "x" * 5000
    for number in range(300):
        state.write(put(large=f'{{"a":"{text}","n":{number},"b":"{text}"}}'.encode()))

    assert run.store.client.memory_usage(run.keys["journal"], samples=0) < 100_000
    assert restored(run) == run.content(f"state:{run.run_id}")


@pytest.mark.parametrize("seed", range(20))
def test_the_journal_gives_every_value_back_however_it_was_changed(run: DrivenRun, seed: int) -> None:
    chosen = random.Random(seed)
    state = writer(run, run.claim("a"))
    values = {"a": b"", "b": chosen.randbytes(3000), "c": b"ab" * 400}
    for _ in range(25):
        name = chosen.choice(list(values))
        old = values[name]
        cut, end = sorted(chosen.randrange(len(old) + 1) for _ in range(2))
        values[name] = old[:cut] + chosen.choice([b"", b"ab", chosen.randbytes(400)]) + old[end:]
        delete = [chosen.choice(["a", "b", "c"])] if chosen.random() < 0.1 else []
        state.write(
            Change("set", {name: values[name]}, delete=[each for each in delete if each != name],
                   replace=chosen.random() < 0.1)
        )  # fmt: skip
        assert restored(run) == run.content(f"state:{run.run_id}")
