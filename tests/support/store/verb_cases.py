"""Every verb of the store as a case that may be repeated, with the reply to the repeated call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches
from support.store.driving import LIMITS, NOTHING, DrivenRun, event, failed, plan_of, step, stop, waiting
from support.store.queued_cases import QUEUED
from support.store.verb_case import PLAN, Case, claimed, unheard
from umbel.orchestration.engine.cancelling.expiries import expire_buffer, expire_join
from umbel.orchestration.engine.cancelling.selection import Selection
from umbel.orchestration.engine.children.spec import ChildSpec
from umbel.orchestration.engine.emitted import Emitted
from umbel.orchestration.engine.leases import Held, Pulse
from umbel.orchestration.engine.pausing.workflows import hold
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.history.packing.chunks import checkpoint_run, pack_run
from umbel.orchestration.model.commands import Fill, Publish
from umbel.orchestration.model.decide import CHUNK, Decision, decide, decide_start, route
from umbel.orchestration.model.envelope import JOIN_EXPIRED, START
from umbel.orchestration.model.work_item import AwaitedChild, Awaiting, FannedOut, Origin, Outcome, Returned, Work
from umbel.orchestration.snapshots.restore import begin_from, puts
from umbel.orchestration.snapshots.take import take_snapshot
from umbel.orchestration.state.memo import keep
from umbel.orchestration.store.replies import Applied, CarryOn


def start(store: Store) -> Case:
    commands = decide_start(PLAN, "r", event(START), LIMITS)
    return Case("start", lambda: store.start("r", PLAN, commands, nonce="n", timeout_seconds=9))


def snapshot(store: Store) -> Case:
    run, _ = claimed(store)

    def taken() -> Any:
        """Return the snapshot without the elapsed time."""
        return replace(store.call(take_snapshot, store, run.run_id), spent_seconds=0.0)

    return Case("snapshot", taken)


def restore(store: Store) -> Case:
    run, _ = claimed(store)
    saved = store.call(take_snapshot, store, run.run_id)
    given: dict[str, Any] = {"nonce": "n", "timeout_seconds": 9, "options": {}}
    return Case("restore", lambda: store.call(begin_from, store, "r", PLAN, saved, (), LIMITS, **given))


def claim(store: Store) -> Case:
    run = DrivenRun(store, PLAN).start()
    return Case("claim", lambda: run.ask(run.dispatches[0], claim_id="c"))


def committing(outcome: Outcome | Callable[[Work], Outcome]) -> Callable[[Store], Case]:
    def case(store: Store) -> Case:
        _run, work = claimed(store)
        decision: Decision = decide(PLAN, work, outcome(work) if callable(outcome) else outcome, NOTHING, LIMITS)
        if decision.staged:
            assert store.stage(work, decision, CHUNK) is None
        return Case("commit", lambda: store.commit(work, PLAN, decision, surroundings=NOTHING, batches=0, entry={}))

    return case


def hop(store: Store) -> Case:
    """A repeated call falls back to the ordinary commit, which remembers its reply."""
    _run, work = claimed(store)
    engine = store.over(Engine, SentDispatches())
    given: dict[str, Any] = {"entry": {}, "carry_on": CarryOn("next")}
    return Case("hop", lambda: engine.commit(work, PLAN, Returned(event("A")), Emitted(), **given).reply)


def flush(store: Store) -> Case:
    run, work = claimed(store)
    sends = [
        (f"e{i}", route(PLAN, event(name), Origin(run.run_id, work.work_id), f"e{i}", NOTHING, LIMITS))
        for i, name in enumerate("ALLXA")
    ]
    publishes = [Publish(event("P"), "begin", 1)]
    return Case(
        "flush",
        lambda: store.flush(work, PLAN, batch=1, surroundings=NOTHING, publishes=publishes, sends=sends),
        again=unheard,
    )


def log(store: Store) -> Case:
    run, _ = claimed(store)
    return Case("log", lambda: store.log(run.run_id, 1, b"lines", patience_seconds=10.0))


def send(store: Store) -> Case:
    run, _ = claimed(store)
    commands = route(PLAN, event("A"), Origin(run.run_id, "outside"), "e", NOTHING, LIMITS)
    return Case("send", lambda: store.send(run.run_id, "s", commands, surroundings=NOTHING), again=unheard)


def stage(store: Store) -> Case:
    _, work = claimed(store)
    events = (event("A"), event("M")) * CHUNK
    decision = decide(PLAN, work, FannedOut(events), NOTHING, LIMITS)
    return Case("stage", lambda: store.stage(work, decision, CHUNK))


def unstage(store: Store) -> Case:
    run, work = claimed(store)
    store.stage(work, decide(PLAN, work, FannedOut((event("A"),) * (CHUNK + 1)), NOTHING, LIMITS), CHUNK)
    run.leases.hand_back("o1", [Held.parse(work.member)], charge=False)
    again = run.ask(run.dispatches[0] if run.dispatches else bell_of(run, work))
    assert isinstance(again, Work)
    assert again.segments
    return Case("unstage", lambda: store.unstage(again, CHUNK))


def bell_of(run: DrivenRun, work: Work) -> Any:
    return run.leases.redispatch(run.run_id, [(work.work_id, "umbel/0")]).dispatches[0]


def collect(store: Store) -> Case:
    _, work = claimed(store)
    return Case(
        "collect",
        lambda: store.collect(
            work,
            buffer="s|b",
            call="c",
            event=event("C"),
            expected=[("C", 1, "buffer:b|C")],
            taken=f"taken:{work.work_id}",
        ),
    )


def memo(store: Store) -> Case:
    _, work = claimed(store)
    return Case("memo", lambda: store.call(keep, store, work, "key", b"1"))


def parent_of(store: Store, *, held: bool = False) -> tuple[DrivenRun, Work]:
    """Return a run whose step waits for the child run `child` and, if `held`, for `other`, which starts after it."""
    run, work = claimed(store)
    children = [awaited(name) for name in (("child", "other") if held else ("child",))]
    run.commit(work, Awaiting(tuple(children), at_once=1))
    return run, work


def awaited(name: str) -> AwaitedChild:
    spec = ChildSpec(event(START), LIMITS.queue).to_bytes()
    return AwaitedChild(name, f"child|{name}", "W", PLAN.digest, PLAN.to_json(), START, spec)


def child_started(store: Store) -> Case:
    run, _ = parent_of(store)
    key = run.keys["outbox"]

    def ask() -> list[bytes]:
        reply: list[bytes] = store.verb("child_started", run.run_id, child="child", look=9)
        store.client.zadd(key, {f"child|{run.run_id}|child": 1})  # a repeated call writes another instant
        return reply

    return Case("child_started", ask)


def child_ended(store: Store) -> Case:
    run, _ = parent_of(store, held=True)
    about = {"child": "child", "status": "completed", "event": event("x").to_bytes()}
    return Case("child_ended", lambda: store.verb("child_ended", run.run_id, **about), again=lambda _: [b"known"])


def expire(store: Store) -> Case:
    plan = plan_of(
        step("begin", START),
        step("pair", "L", "R", kind="all_of", join_by="id", within_seconds=9),
        step("told", JOIN_EXPIRED),
    )
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), Returned(event("L", id=7)))
    outbox = run.keys["outbox"]
    (member,) = store.client.zrange(outbox, 0, -1)
    store.client.zadd(outbox, {member: 1})
    buffer = member.decode().split("|", 2)[2]
    return Case(
        "expire", lambda: store.call(expire_join, store, run.run_id, plan, buffer, LIMITS), again=lambda _: None
    )


def expire_collected(store: Store) -> Case:
    run, work = claimed(store)
    buffer, name = "begin|key:7", "buffer:b|C"
    about = {"buffer": buffer, "call": "c", "event": event("C"), "taken": f"taken:{work.work_id}"}
    assert store.collect(work, expected=[("C", 2, name)], within_seconds=9, **about) is None
    store.client.zadd(run.keys["outbox"], {f"buffer|{run.run_id}|{buffer}": 1}, xx=True)
    given = (run.run_id, PLAN, buffer, LIMITS)
    return Case("expire", lambda: store.call(expire_buffer, store, *given), again=lambda _: None)


def cancel(store: Store) -> Case:
    run, _ = claimed(store)
    engine = store.over(Engine, SentDispatches())
    about = {"instead": event("A"), "reason": "x"}
    return Case("cancel", lambda: engine.cancel_work(run.run_id, Selection(step="begin"), **about), again=lambda _: 0)


def finish(store: Store) -> Case:
    run, _ = claimed(store)
    return Case("finish", lambda: store.finish(run.run_id, "cancelled", event("x")), again=lambda _: None)


def wake_retry(store: Store) -> Case:
    run, work = claimed(store)
    run.commit(work, failed(100))
    run.make_due(f"retry|{work.work_id}")
    return Case("wake", lambda: run.wake("retry", work.work_id), again=lambda _: None)


def wake_waiter(store: Store) -> Case:
    run, work = claimed(store)
    run.commit(work, waiting(work, timeout_seconds=100))
    run.make_due(f"waiter|{work.work_id}|w")
    return Case("wake", lambda: run.wake("waiter", work.work_id, "w"), again=lambda _: None)


def deadline(store: Store) -> Case:
    run, work = claimed(store)
    run.make_due(f"deadline|{work.work_id}")
    return Case("deadline", lambda: run.wake("deadline", work.work_id), again=lambda _: None)


def heartbeat(store: Store) -> Case:
    run, work = claimed(store)
    other = Held(run.run_id, "elsewhere", "c")
    lost = Pulse(False, frozenset([other]))

    def ask() -> Pulse:
        pulse = run.leases.heartbeat("o1", [Held.parse(work.member), other])
        store.client.zadd(run.keys["leases"], {"o1": 1})  # a repeated call writes another instant
        return pulse

    return Case("heartbeat", ask, again=lambda _: lost)


def fence(store: Store) -> Case:
    run, _ = claimed(store)
    store.client.zadd(run.keys["leases"], {"o1": 1})
    return Case("fence", lambda: run.leases.fence("o1", run.keys.shard))


def losing(charge: bool) -> Callable[[Store], Case]:
    def case(store: Store) -> Case:
        run, work = claimed(store)
        held = [Held.parse(work.member)]
        return Case(
            "lose",
            lambda: run.leases.hand_back("o1", held, charge=charge),
            again=lambda _: [(run.run_id, Applied())],
        )

    return case


def park(store: Store) -> Case:
    run, work = claimed(store)
    return Case("park", lambda: run.leases.park(run.run_id, work.work_id, "W", "begin", work), again=lambda _: False)


def unpark(store: Store) -> Case:
    run, work = claimed(store)
    run.leases.park(run.run_id, work.work_id, "W", "begin", work)
    return Case("unpark", lambda: run.leases.unpark("W", ["begin"]), again=lambda _: [])


def hold_back(store: Store) -> Case:
    run = DrivenRun(store, PLAN).start(timeout_seconds=100)
    work_id = run.dispatch("begin").work_id
    return Case("hold", lambda: store.call(hold, store, run.run_id, work_id, "W"))


def revive(store: Store) -> Case:
    run, _ = claimed(store)
    store.finish(run.run_id, "cancelled", event("x"))
    return Case("revive", lambda: store.revive(run.run_id, timeout_seconds=9), again=lambda _: "running")


def retire(store: Store) -> Case:
    run, work = claimed(store)
    run.flush(work, 1, ("x", event("A")))
    store.finish(run.run_id, "cancelled", event("x"))
    return Case("retire", lambda: run.leases.retire(run.run_id))


def pack(store: Store) -> Case:
    run, work = claimed(store)
    run.commit(work, stop())
    return Case("pack", lambda: store.call(pack_run, store, run.run_id), again=lambda _: None)


def checkpoint(store: Store) -> Case:
    run, _ = claimed(store)
    return Case("checkpoint", lambda: store.call(checkpoint_run, store, run.run_id), lambda _: None)


def purge(store: Store) -> Case:
    run, work = claimed(store)
    run.flush(work, 1, ("x", event("A")))
    store.finish(run.run_id, "cancelled", event("x"))
    return Case("purge", lambda: store.purge(run.run_id))


def rewind(store: Store) -> Case:
    """Rewind to where the first step was executing, from where two more wait, one of them with an event sent early."""
    run, work = claimed(store)
    then = store.call(take_snapshot, store, run.run_id)
    contents = [put for put in puts(run.run_id, PLAN, then, LIMITS) if put["o"] != "state"]
    run.flush(work, 1, ("x", event("A")))
    old = [f"sent:{work.work_id}"]
    return Case(
        "rewind",
        lambda: store.verb(
            "rewind",
            run.run_id,
            nonce="n",
            stop=True,
            **{"from": 2},
            old=old,
            state={"a": b"1"},
            commands=[Fill(PLAN.by_name["begin"]).wire()],
            extra={name: run.keys[name] for name in old},
            body={"puts": contents},
        ),
    )


CASES: dict[str, Callable[[Store], Case]] = {
    "start": start,
    "snapshot": snapshot,
    "restore": restore,
    "claim": claim,
    "commit a return": committing(FannedOut((event("A"), event("M"), event("L"), event("L"), event("X")))),
    "commit a large fan-out": committing(FannedOut((event("A"), event("M"), event("L")) * CHUNK)),
    "commit an end": committing(stop(1)),
    "commit a retry": committing(failed(100)),
    "commit a retry at once": committing(failed(0)),
    "commit a failure": committing(failed()),
    "commit a wait": committing(lambda work: waiting(work, timeout_seconds=9)),
    "hop": hop,
    "flush": flush,
    "send": send,
    "stage": stage,
    "unstage": unstage,
    "collect": collect,
    "memo": memo,
    "cancel": cancel,
    "expire": expire,
    "expire what is collected": expire_collected,
    "commit child runs": committing(Awaiting((awaited("child"), awaited("other")), at_once=1)),
    "child_started": child_started,
    "child_ended": child_ended,
    "finish": finish,
    "wake a retry": wake_retry,
    "wake a waiter": wake_waiter,
    "deadline": deadline,
    "heartbeat": heartbeat,
    "fence": fence,
    "lose": losing(charge=True),
    "release": losing(charge=False),
    "park": park,
    "unpark": unpark,
    "hold": hold_back,
    "revive": revive,
    "log": log,
    "retire": retire,
    "pack": pack,
    "checkpoint": checkpoint,
    "purge": purge,
    "rewind": rewind,
    **QUEUED,
}
