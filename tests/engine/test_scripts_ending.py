"""How runs end, and what remains: the first end wins, every key gets its TTL, finished work leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.driving import DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from support.store.state_writer import BlockingHash
from umbel.orchestration.model.envelope import START, STEP_FAILED, Envelope
from umbel.orchestration.model.errors import RunNotFound
from umbel.orchestration.model.work_item import FannedOut, Returned, Work
from umbel.orchestration.state.redis_hash import Change
from umbel.orchestration.store.replies import Applied, Dispatch, Refusal
from umbel.orchestration.store.scripts import unpack

PLAN = plan_of(
    step("begin", START, collected_by=("all",)),
    step("work", "A", num_workers=2),
    step("pair", "L", "R", kind="all_of"),
    step("all", "M", kind="collect"),
)


def busy(store: Store) -> tuple[DrivenRun, Work]:
    """Return a run with something in each of its keys, and an attempt in progress."""
    run = DrivenRun(store, PLAN).start(timeout_seconds=100)
    begin = run.claim("begin")
    run.flush(begin, 1, ("early", event("A", i=9)))
    run.commit(begin, FannedOut(tuple(event("A", i=i) for i in range(5))), batches=1)
    first = run.claim("work")
    run.flush(first, 1, ("more", event("A", i=8)))
    run.store.collect(
        first, buffer="s|b", call="c", event=event("A"), expected=[("A", 2, "buffer:b|A")], taken="taken:x"
    )
    second = run.claim("work")
    run.commit(second, Returned(event("M")))
    third = run.claim("work")
    run.commit(third, waiting(third, timeout_seconds=50))
    run.send(event("L"))
    run.send(event("Unheard"))
    store.client.hset(run.keys[f"state:{run.run_id}"], "count", "1")
    return run, run.claim("work")


def lifetimes(run: DrivenRun) -> dict[str, int]:
    """Return the TTL of each of the run's keys in milliseconds; -1 without an expiry."""
    client = run.store.client
    keys = [*client.scan_iter(match=f"*{run.run_id}*", count=1000)]
    return {key.decode(): client.pttl(key) for key in keys}


# -- starting ----------------------------------------------------------------------------------------------------------


def test_a_start_is_asked_again_with_its_nonce_and_refused_to_another(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    before = dump(store.client, store.settings.key_prefix)

    again = store.start(run.run_id, PLAN, [], nonce="n", timeout_seconds=None)
    other = store.start(run.run_id, PLAN, [], nonce="other", timeout_seconds=None)

    assert again == Applied(tuple(run.dispatches))
    assert other is Refusal.EXISTS
    assert dump(store.client, store.settings.key_prefix) == before


def test_a_run_is_stored_with_its_plan_options_and_parent(store: Store) -> None:
    store.start("r", PLAN, [], nonce="n", timeout_seconds=None, options={"timeout": 3}, parent="p")
    record = store.run("r")

    assert (record.status, record.workflow, record.plan_digest) == ("running", "W", PLAN.digest)
    assert (record.options, record.parent, record.state_id, record.ended_at) == ({"timeout": 3}, "p", "r", None)
    assert store.plan_of("r") == PLAN
    assert [each.run_id for each in store.runs(status="running")] == ["r"]


def test_a_run_that_never_was_is_not_found(store: Store) -> None:
    for ask in (store.run, store.plan_of):
        with pytest.raises(RunNotFound, match="No run 'nowhere'"):
            ask("nowhere")
    with pytest.raises(RunNotFound):
        store.finish("nowhere", "cancelled", event("x"))


# -- ending ------------------------------------------------------------------------------------------------------------


def test_the_first_end_wins(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    work = run.claim("begin")

    assert store.finish(run.run_id, "cancelled", event("first")) is not None
    assert store.finish(run.run_id, "timed_out", event("second")) is None
    assert run.try_commit(work, stop()) is Refusal.CLOSED

    record = store.run(run.run_id)
    assert (record.status, record.ending) == ("cancelled", event("first"))
    assert run.content("owner:o1") is None


def test_an_end_is_published_last_and_announced_to_the_workers(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    listener = store.client.pubsub()
    listener.subscribe(run.keys["ended"])
    assert listener.get_message(timeout=30)["type"] == "subscribe"
    run.commit(run.claim("begin"), stop(1))

    run_id, _, published = listener.get_message(timeout=30)["data"].partition(b"\0")
    assert run_id == run.run_id.encode()
    assert unpack(published) == ["completed", run.content("run")[b"ending"].decode()]
    listener.close()
    ids = [entry[0] for name in ("stream", "trace") for entry in run.content(name)]
    assert run.content("stream")[-1][0] == max(ids, key=lambda entry: int(entry.split(b"-")[0]))
    assert sorted(int(entry.split(b"-")[0]) for entry in ids) == list(range(len(ids)))


def test_a_run_ends_in_the_index_of_its_status(store: Store) -> None:
    ends = {
        "completed": lambda run: run.commit(run.claim("begin"), stop()),
        "failed": lambda run: run.commit(run.claim("begin"), failed()),
        "cancelled": lambda run: store.finish(run.run_id, "cancelled", event("x")),
        "timed_out": lambda run: store.finish(run.run_id, "timed_out", event("x")),
    }
    for status, end in ends.items():
        run = DrivenRun(store, PLAN).start()
        end(run)
        assert run.status == status
        assert [each.run_id for each in store.runs(status=status)] == [run.run_id]
    assert store.runs(status="running") == []
    assert len(store.runs()) == 4


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "timed_out"])
def test_every_key_of_an_ended_run_has_a_lifetime(store: Store, end: Any) -> None:
    run, work = busy(store)
    keep = store.settings.retention_seconds * 1000
    assert -1 in lifetimes(run).values()
    if end in ("completed", "failed"):
        run.commit(work, stop() if end == "completed" else failed())
    else:
        store.finish(run.run_id, end, event("x"))
    run.leases.retire(run.run_id)

    left = lifetimes(run)
    assert all(0 < milliseconds <= keep for milliseconds in left.values()), left
    assert f"{run.keys['run']}:journal" in left
    assert store.client.zcard(run.keys["retire"]) == 0


def test_a_run_has_the_retention_it_was_started_with_also_in_what_comes_after_its_end(store: Store) -> None:
    keep = 1000 * store.settings.retention_seconds * 1000
    run, work = busy(store)
    store.client.hset(run.keys["run"], "options", f'{{"timeout":1,"retention_ms":{keep:.0f}}}')

    run.commit(work, failed())
    run.leases.retire(run.run_id)
    store.client.delete(run.keys["journal"])
    BlockingHash.of(store, run.run_id, run.run_id).write(Change("set", set={"late": b"1"}))

    left = lifetimes(run)
    assert f"{run.keys['run']}:journal" in left
    assert all(0.9 * keep < milliseconds <= keep for name, milliseconds in left.items() if ":answer" not in name), left


def test_what_comes_too_late_leaves_no_key_without_an_expiry(store: Store) -> None:
    run, late = busy(store)
    store.finish(run.run_id, "cancelled", event("x"))
    run.leases.retire(run.run_id)

    assert run.try_commit(late, Returned(event("M"))) is Refusal.CLOSED
    assert run.flush(late, 1, ("x", event("A"))) is Refusal.CLOSED
    assert run.send(event("A")) is Refusal.CLOSED
    assert store.collect(late, buffer="s|b", call="d", event=event("A"), expected=[], taken="t") is Refusal.CLOSED
    assert run.wake("retry", late.work_id) is None
    assert not run.leases.park(run.run_id, late.work_id, "W", "work", late)
    run.leases.redispatch(run.run_id, [(late.work_id, "umbel/0")])
    assert run.ask(Dispatch(run.run_id, late.work_id, 1, "work", "umbel", 0)) is Refusal.CLOSED

    assert all(milliseconds > 0 for milliseconds in lifetimes(run).values()), lifetimes(run)


def test_a_completed_run_keeps_only_its_result_and_its_logs(store: Store) -> None:
    run, work = busy(store)
    run.commit(work, stop(7))

    kept = {key.removeprefix(run.keys["run"]).split(":")[1:2][0] for key in lifetimes(run) if key != run.keys["run"]}

    assert not kept & {"work", "events", "slots", "free", "queue", "scopes", "joins", "inbox", "waiters", "received"}
    assert run.result == 7


def test_a_running_run_is_not_retired(store: Store) -> None:
    run, _ = busy(store)
    run.leases.retire(run.run_id)

    keys = {key: left for key, left in lifetimes(run).items() if ":answer:" not in key}
    assert set(keys.values()) == {-1}


# -- finished work leaves nothing --------------------------------------------------------------------------------------

LOOP = plan_of(
    step("begin", START),
    step("again", "Next"),
    step("split", "Split", collected_by=("all",)),
    step("part", "Part", num_workers=2),
    step("pair", "L", "R", kind="all_of"),
    step("all", "M", kind="collect"),
    step("rescue", STEP_FAILED, recovers=("part",)),
)


def next_of(n: int) -> Returned:
    return Returned(event("Next", n=n))


def leftovers(run: DrivenRun) -> dict[str, Any]:
    """Return the contents of the keys that hold work, apart from the one item in flight."""
    names = ("slots", "free", "queue", "scopes", "joins", "inbox", "waiters", "extra", "collect", "unclaimed")
    found = {name: run.content(name) for name in names}
    found |= {"work": len(run.content("work") or ()), "events": len(run.content("events") or ())}
    return found


def test_a_loop_of_a_thousand_steps_leaves_nothing_behind(store: Store) -> None:
    bounded = store.settings.model_copy(update={"stream_max_events": 100, "journal_max_entries": 100})
    run = DrivenRun(blocking_store(bounded, store.client), LOOP).start()
    run.commit(run.claim("begin"), next_of(0))
    sizes = []
    for n in range(1000):
        run.commit(run.claim("again"), next_of(n + 1))
        if n % 100 == 99:
            sizes.append(memory(run))

    assert leftovers(run) | {"slots": None, "unclaimed": None} == dict.fromkeys(leftovers(run)) | {
        "work": 1,
        "events": 0,
    }
    assert store.run(run.run_id).live == 1
    assert max(sizes[5:]) < 1.5 * sizes[2]


def test_a_loop_through_everything_leaves_nothing_behind(store: Store) -> None:
    run = DrivenRun(store, LOOP).start()
    run.commit(run.claim("begin"), next_of(0))
    seen = []
    for n in range(12):
        turn = run.claim("again")
        run.flush(turn, 1, ("x", event("Part", end=True)))
        run.commit(turn, Returned(event("Split")), batches=1)
        run.play(bodies(store, n))
        asleep = run.claim("again") if run.dispatches else turn
        seen.append(leftovers(run) | {"slots": None, "unclaimed": None, "free": None})
        assert asleep is turn
        run.send(event("Next"))

    assert seen == [dict.fromkeys(seen[0]) | {"work": 0, "events": 0}] * 12
    assert store.run(run.run_id).live == 1


def bodies(store: Store, n: int) -> dict[str, Any]:
    """Return the bodies of one iteration: a nested fan-out, a join in it, a failure, a retry, a wait, a set."""

    def part(work: Work) -> Any:
        value = work.bound[0].value()
        if value.get("end"):
            return Returned(None)
        if value["i"] == 0:
            return failed() if not work.recoveries else Returned(None)
        if value["i"] == 1:
            return failed(0) if work.attempt == 1 else FannedOut((event("L"), event("R"), event("L")))
        if value["i"] == 2:
            store.collect(
                work,
                buffer="s|b",
                call=f"b|{work.work_id}",
                event=event("C"),
                expected=[("C", 1, "buffer:b|C")],
                taken=f"taken:{work.work_id}",
            )
            return failed(0) if work.attempt == 1 else Returned(event("M"))
        return Returned(event("M"))

    return {
        "split": lambda _: FannedOut(tuple(event("Part", i=i) for i in range(5))),
        "part": part,
        "pair": lambda _: Returned(event("M")),
        "rescue": lambda work: Returned(Envelope("Part", (), work.bound[0].payload[:-1] + b',"i":0}')),
        "all": lambda _: Returned(None),
    }


def memory(run: DrivenRun) -> int:
    """Return the bytes that Redis spends on the run, except for the remembered replies, which expire."""
    client = run.store.client
    keys = [key for key in client.scan_iter(match=f"*{run.run_id}*", count=1000) if b":answer:" not in key]
    return sum(client.memory_usage(key) or 0 for key in keys)
