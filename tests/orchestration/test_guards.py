"""Every guard of the scripts is taken out once, to see that a test notices: a suite that stays green proves nothing.

A guard's text must be found in its script exactly once, so this table cannot rot unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from core_checks import CheckedStore, MutantStore
from core_driving import LIMITS, NOTHING, DrivenRun, event, failed, plan_of, step, stop, waiting
from core_operations import FaultyWorld
from redis.exceptions import ResponseError

from umbel.orchestration.commands import Publish
from umbel.orchestration.connection import Client
from umbel.orchestration.decide import CHUNK, decide, route
from umbel.orchestration.envelope import START
from umbel.orchestration.records import Applied, Doorbell, Refusal
from umbel.orchestration.settings import Settings
from umbel.orchestration.store import Store
from umbel.orchestration.upkeep import Held
from umbel.orchestration.work import FannedOut, Origin, Returned, Work

PLAN = plan_of(
    step("begin", START, joins=("all", "first"), timeout_seconds=50),
    step("work", "A", num_workers=1),
    step("all", "M", kind="collect"),
    step("first", "M", kind="collect", take=2),
)


def begun(store: Store) -> tuple[DrivenRun, Work]:
    run = DrivenRun(store, PLAN).start(timeout_seconds=100)
    return run, run.claim("begin")


def lost(run: DrivenRun, work: Work) -> Doorbell:
    """The owner dies; the doorbell of the next attempt."""
    run.upkeep.fence(work.owner, run.keys.shard, known_dead=True)
    [(_, applied)] = run.upkeep.hand_back(work.owner, [Held.parse(work.member)], charge=True)
    return applied.doorbells[0]


# -- scenarios: each fails when its guard is missing -------------------------------------------------------------------


def a_late_commit_is_stale(store: Store) -> None:
    run, late = begun(store)
    run.ask(lost(run, late), owner="o2")
    assert run.try_commit(late, stop()) is Refusal.STALE


def a_late_burst_is_stale(store: Store) -> None:
    run, late = begun(store)
    run.ask(lost(run, late), owner="o2")
    assert run.flush(late, 1, ("x", event("A"))) is Refusal.STALE


def a_late_staging_is_stale(store: Store) -> None:
    run, late = begun(store)
    run.ask(lost(run, late), owner="o2")
    assert run.try_commit(late, FannedOut((event("A"),) * (CHUNK + 1))) is Refusal.STALE
    assert run.content("queue") is None


def two_doorbells_start_one_attempt(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    answers = [run.ask(run.bells[0]), run.ask(run.bells[0], owner="o2")]
    assert answers[1] is Refusal.BUSY


def a_repeated_claim_is_answered_again(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    assert run.ask(run.bells[0], claim_id="c") == run.ask(run.bells[0], claim_id="c")


def the_dead_claim_nothing(store: Store) -> None:
    run, work = begun(store)
    assert run.ask(lost(run, work)) is Refusal.GONE


def a_suspect_needs_room(store: Store) -> None:
    run, work = begun(store)
    assert run.ask(lost(run, work), owner="o2", takes_suspects=False) is Refusal.SUSPECT


def a_first_loss_is_not_charged(store: Store) -> None:
    run, work = begun(store)
    again = run.ask(lost(run, work), owner="o2")
    assert isinstance(again, Work)
    assert (again.losses, again.charged_losses) == (1, 0)


def a_suspects_further_loss_is_charged(store: Store) -> None:
    run, work = begun(store)
    again = run.ask(lost(run, work), owner="o2")
    assert isinstance(again, Work)
    third = run.ask(lost(run, again), owner="o3")
    assert isinstance(third, Work)
    assert (third.losses, third.charged_losses) == (2, 1)


def a_loss_leaves_the_next_claim_alone(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, failed(0))
    again = run.claim("begin")
    run.upkeep.hand_back("o1", [Held.parse(work.member)], charge=True)
    assert isinstance(run.try_commit(again, stop()), Applied)


def missing_bursts_hold_up_the_commit(store: Store) -> None:
    run, work = begun(store)
    assert run.try_commit(work, stop(), batches=1) is Refusal.MISSING


def a_burst_must_not_skip_one(store: Store) -> None:
    run, work = begun(store)
    assert run.flush(work, 2, ("x", event("A"))) is Refusal.MISSING


def a_burst_counts_once(store: Store) -> None:
    run, work = begun(store)
    for _ in range(2):
        run.flush(work, 1, publishes=[Publish(event("P"))])
    assert len(run.content("stream")) == 1


def what_was_sent_is_not_sent_again(store: Store) -> None:
    run, work = begun(store)
    run.flush(work, 1, ("x", event("A")))
    run.commit(work, failed(0), batches=1)
    run.flush(run.claim("begin"), 1, ("x", event("A")))
    assert store.run(run.run_id).live == 2


def a_slot_is_given_back_by_who_holds_it(store: Store) -> None:
    run, work = begun(store)
    store.client.hset(run.keys["slots"], "begin/0", "somebody else")
    run.commit(work, Returned(None))
    assert store.client.hget(run.keys["slots"], "begin/0") == b"somebody else"


def outdated_waiters_are_noticed(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("asks", START), step("tells", START))).start()
    asks, tells = run.claim("asks"), run.claim("tells")
    decision = decide(run.plan, tells, Returned(event("Answer")), NOTHING, LIMITS)
    run.commit(asks, waiting(asks))
    reply = store.commit(tells, run.plan, decision, version=tells.version, batches=0, entry={})
    assert reply is Refusal.CHANGED


def outdated_waiters_are_noticed_by_a_send(store: Store) -> None:
    run, work = begun(store)
    commands = route(PLAN, event("Answer"), Origin(run.run_id, "o"), "e", NOTHING, LIMITS)
    run.commit(work, waiting(work))
    assert store.send(run.run_id, "s", commands, version=0) is Refusal.CHANGED


def an_answered_waiter_is_not_resumed_again(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, waiting(work, timeout_seconds=50))
    run.send(event("Answer"))
    run.store.client.zadd(run.keys["timers"], {f"waiter|{run.run_id}|{work.work_id}|w": 1})
    run.wake("waiter", work.work_id, "w")
    assert run.claim("begin").answers == {"w": event("Answer")}


def take_fires_once(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, FannedOut((event("M"),) * 5))
    assert [bell.step for bell in run.bells] == ["first", "all"]


def an_open_fan_out_inside_keeps_its_surroundings_open(store: Store) -> None:
    plan = plan_of(step("begin", START, joins=("all",)), step("split", "S"), step("work", "A"), PLAN.by_name["all"])
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut((event("S"),)))
    run.commit(run.claim("split"), FannedOut((event("A"),)))
    assert [bell.step for bell in run.bells] == ["work"]
    run.commit(run.claim("work"), Returned(event("M")))
    assert len(store.members(run.claim("all"))) == 1


def a_commit_is_answered_again(store: Store) -> None:
    _, work = begun(store)
    decision = decide(PLAN, work, Returned(event("A")), NOTHING, LIMITS)
    first, second = (store.commit(work, PLAN, decision, version=0, batches=0, entry={}) for _ in range(2))
    assert first == second


def a_send_counts_once(store: Store) -> None:
    run, _ = begun(store)
    for _ in range(2):
        run.send(event("A"), send_id="s")
    assert store.run(run.run_id).live == 2


def a_start_counts_once(store: Store) -> None:
    run, _ = begun(store)
    again = store.start(run.run_id, PLAN, [], nonce="other", timeout_seconds=None)
    assert again is Refusal.EXISTS


def the_first_end_wins(store: Store) -> None:
    run, work = begun(store)
    store.finish(run.run_id, "cancelled", event("x"))
    store.finish(run.run_id, "timed_out", event("y"))
    assert run.status == "cancelled"
    run.try_commit(work, stop())
    assert run.status == "cancelled"


def a_run_times_out_only_when_due(store: Store) -> None:
    run, _ = begun(store)
    assert not store.finish(run.run_id, "timed_out", event("x"), if_due=True)


def a_timer_waits(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, failed(100))
    assert run.wake("retry", work.work_id) is None


def a_deadline_waits(store: Store) -> None:
    run, work = begun(store)
    assert run.wake("deadline", work.work_id) is None


def the_living_are_not_fenced(store: Store) -> None:
    run, work = begun(store)
    assert run.upkeep.fence("o1", run.keys.shard) == []
    assert isinstance(run.try_commit(work, stop()), Applied)


def a_claim_takes_out_a_lease(store: Store) -> None:
    run, work = begun(store)
    assert (store.client.zscore(run.keys["leases"], "o1") or 0) > work.claimed_at


def the_idle_are_not_dead(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, Returned(event("A")))
    store.client.zadd(run.keys["leases"], {"o1": 1})
    run.upkeep.fence("o1", run.keys.shard)
    assert isinstance(run.ask(run.bells[0]), Work)


def a_repeated_chunk_is_staged_once(store: Store) -> None:
    run, work = begun(store)
    decision = decide(PLAN, work, FannedOut((event("M"),) * (CHUNK + 1)), NOTHING, LIMITS)
    store.stage(work, decision, CHUNK)
    later = {name: staged[CHUNK // 2 :] for name, staged in decision.staged.items()}
    store.stage(work, replace(decision, staged=later), CHUNK)
    run.heard(store.commit(work, PLAN, decision, version=0, batches=0, entry={}))
    assert run.claim("all").members == CHUNK + 1


def a_collected_set_is_given_once(store: Store) -> None:
    _, work = begun(store)
    expected = [("C", 1, "buffer:b|C")]
    answers = [
        store.collect(work, call="c", event=event("C", n=1), expected=expected, taken="taken:t") for _ in range(2)
    ]
    assert answers == [[event("C", n=1)]] * 2


def parked_work_is_not_parked_by_others(store: Store) -> None:
    run, work = begun(store)
    assert not run.upkeep.park(run.run_id, work.work_id, "W", "begin")


def a_queue_is_first_in_first_out(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, FannedOut(tuple(event("A", i=i) for i in range(3))))
    order = []
    while run.bells:
        following = run.ask(run.bells.popleft())
        assert isinstance(following, Work)
        order += [bound.value()["i"] for bound in following.bound]
        run.commit(following, Returned(None))
    assert order == [0, 1, 2]


# -- the guards --------------------------------------------------------------------------------------------------------

MINE = "or record.t ~= A.t then"


@dataclass(frozen=True)
class Guard:
    """A guard's text in a verb's script, what stands there without it, and the scenario that needs it."""

    verb: str
    text: str
    without: str
    scenario: Callable[[Store], None]


GUARDS = [
    Guard("commit", MINE, "then", a_late_commit_is_stale),
    Guard("flush", MINE, "then", a_late_burst_is_stale),
    Guard("stage", MINE, "then", a_late_staging_is_stale),
    Guard(
        "claim", "if record.st == 'running' and record.c ~= A.c then", "if false then", two_doorbells_start_one_attempt
    ),
    Guard("claim", "record.c ~= A.c", "true", a_repeated_claim_is_answered_again),
    Guard("claim", "if redis.call('ZSCORE', K.gone, A.owner) then", "if false then", the_dead_claim_nothing),
    Guard("claim", "record.u == 1 and not A.suspects", "false", a_suspect_needs_room),
    Guard("claim", "redis.call('SCARD', K.owner) == 1", "false", a_claim_takes_out_a_lease),
    Guard("lose", "if record.u == 1 then", "if true then", a_first_loss_is_not_charged),
    Guard("lose", "else record.u = 1 end", "end", a_suspects_further_loss_is_charged),
    Guard("lose", "record.c == item.c", "true", a_loss_leaves_the_next_claim_alone),
    Guard("fence", "lease > NOW and not A.known_dead", "false", the_living_are_not_fenced),
    Guard("fence", "#held == 0 and not A.known_dead", "false", the_idle_are_not_dead),
    Guard("commit", "(record.fb or 0) ~= A.batches", "false", missing_bursts_hold_up_the_commit),
    Guard("flush", "A.batch > (record.fb or 0) + 1", "false", a_burst_must_not_skip_one),
    Guard("flush", "(record.fb or 0) >= A.batch", "false", a_burst_counts_once),
    Guard("flush", "redis.call('SADD', K.sent, send.id) == 1", "true", what_was_sent_is_not_sent_again),
    Guard("commit", "found[1] ~= wid", "false", a_slot_is_given_back_by_who_holds_it),
    Guard("commit", "A.wv and A.wv ~= tonumber(meta[2] or 0)", "false", outdated_waiters_are_noticed),
    Guard("send", "A.wv and A.wv ~= tonumber(meta[2] or 0)", "false", outdated_waiters_are_noticed_by_a_send),
    Guard("wake", "redis.call('HDEL', K.waiters, field) == 0", "false", an_answered_waiter_is_not_resumed_again),
    Guard("commit", "redis.call('HEXISTS', K.scopes, c.id .. '/' .. c.s) == 1", "false", take_fires_once),
    Guard("commit", "redis.call('HEXISTS', K.scopes, id .. '/' .. join.s) == 0", "true", take_fires_once),
    Guard("commit", "  count(c.p, 1)", "", an_open_fan_out_inside_keeps_its_surroundings_open),
    Guard("commit", "if known.t == A.t then", "if false then", a_commit_is_answered_again),
    Guard("send", "if redis.call('ZSCORE', K.received, A.id) then", "if false then", a_send_counts_once),
    Guard("start", "known[1] ~= A.nonce", "false", a_start_counts_once),
    Guard("finish", "if status ~= 'running' then", "if false then", the_first_end_wins),
    Guard("commit", "if meta[1] ~= 'running' then", "if false then", the_first_end_wins),
    Guard("finish", "if not due or due > NOW then", "if false then", a_run_times_out_only_when_due),
    Guard("wake", "if not due or due > NOW then", "if false then", a_timer_waits),
    Guard("deadline", "if not due or due > NOW then", "if false then", a_deadline_waits),
    Guard("stage", "redis.call('LLEN', list) == item.at", "true", a_repeated_chunk_is_staged_once),
    Guard("collect", "if known then return { known } end", "", a_collected_set_is_given_once),
    Guard("park", "mine or record.st == 'ready'", "true", parked_work_is_not_parked_by_others),
    Guard(
        "commit",
        "local field = step .. ':' .. (h + 1)",
        "local field = step .. ':' .. t",
        a_queue_is_first_in_first_out,
    ),
]


def named(guard: Guard) -> str:
    return f"{guard.verb}: {guard.text.strip()}"


@pytest.mark.parametrize("guard", GUARDS, ids=named)
def test_a_missing_guard_is_noticed(client: Client, settings: Settings, guard: Guard) -> None:
    guard.scenario(CheckedStore(client, settings))

    apart = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:mutant"})
    mutant = MutantStore(client, apart, {guard.verb: (guard.text, guard.without)})
    client.script_load(mutant.mutants[guard.verb].text)  # it is a script still, so what fails is what it does

    with pytest.raises((AssertionError, ResponseError)):
        guard.scenario(mutant)


#: Guards that the model test must notice by itself, in a short random run.
SEEN_BY_MODEL = [
    guard
    for guard in GUARDS
    if guard.verb in ("commit", "claim", "flush", "send", "lose", "wake")
    and guard.scenario is not a_slot_is_given_back_by_who_holds_it
]


@pytest.mark.parametrize("guard", SEEN_BY_MODEL, ids=named)
def test_the_model_notices_a_missing_guard(client: Client, settings: Settings, guard: Guard) -> None:
    for seed in range(7, 15):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{seed}"})
        world = FaultyWorld(client, own, seed, **{guard.verb: (guard.text, guard.without)})  # loads all scripts
        try:
            world.run_for(2500)
        except (AssertionError, ResponseError):
            return
    pytest.fail(f"random runs do not notice that {guard.verb}.lua lacks {guard.text!r}")


def test_a_guard_that_is_not_there_cannot_be_taken_out(client: Client, settings: Settings) -> None:
    with pytest.raises(LookupError, match="0 times"):
        MutantStore(client, settings, {"commit": ("no such text", "")})
    with pytest.raises(LookupError, match="times, not once"):
        MutantStore(client, settings, {"commit": ("redis.call", "")})
