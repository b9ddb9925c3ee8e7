"""Every guard of the scripts is removed once, to see that a test notices: a suite that stays green proves nothing.

A guard's text must be found in its script exactly once, so an outdated entry of this table raises an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from redis.exceptions import ResponseError

from support.model import scenarios, waiting_scenarios
from support.model.operations import FaultyWorld
from support.store.blocking import BlockingStore as Store
from support.store.checks import checked_store, mutant_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings

MINE = "or record.token ~= A.t then"


@dataclass(frozen=True)
class Guard:
    """A guard's text in a verb's script, the text that replaces it, and the scenario that needs it."""

    verb: str
    text: str
    without: str
    scenario: Callable[[Store], None]


GUARDS = [
    Guard("commit", MINE, "then", scenarios.a_late_commit_is_stale),
    Guard("flush", MINE, "then", scenarios.a_late_burst_is_stale),
    Guard("stage", MINE, "then", scenarios.a_late_staging_is_stale),
    Guard(
        "claim",
        "if record.state == 'running' and record.claim_id ~= A.c then",
        "if false then",
        scenarios.two_doorbells_start_one_attempt,
    ),
    Guard("claim", "record.claim_id ~= A.c", "true", scenarios.a_repeated_claim_is_answered_again),
    Guard(
        "claim", "if redis.call('ZSCORE', K.fenced, A.owner) then", "if 1 == 2 then", scenarios.the_dead_claim_nothing
    ),
    Guard("claim", "(record.suspicion or 0) > A.suspicion", "false", scenarios.a_suspect_needs_room),
    Guard("claim", "redis.call('SCARD', K.owner) == 1", "false", scenarios.a_claim_takes_out_a_lease),
    Guard("lose", "if record.alone then", "if true then", scenarios.a_first_loss_is_not_charged),
    Guard(
        "claim", "record.alone = record.suspicion and A.alone", "", scenarios.a_suspects_loss_is_charged_if_it_was_alone
    ),
    Guard("claim", "record.suspicion and A.alone", "true", scenarios.a_suspects_loss_in_a_crowd_is_not_charged),
    Guard("lose", "record.claim_id == item.c", "true", scenarios.a_loss_leaves_the_next_claim_alone),
    Guard("fence", "lease > call.now and not A.known_dead", "false", scenarios.the_living_are_not_fenced),
    Guard("fence", "#held == 0 and not A.known_dead", "false", scenarios.the_idle_are_not_dead),
    Guard("commit", "(record.batches or 0) ~= A.batches", "false", scenarios.missing_bursts_hold_up_the_commit),
    Guard("flush", "A.batch > (record.batches or 0) + 1", "false", scenarios.a_burst_must_not_skip_one),
    Guard("flush", "(record.batches or 0) >= A.batch", "false", scenarios.a_burst_counts_once),
    Guard("flush", "redis.call('SADD', K.sent, send.id) == 1", "true", scenarios.what_was_sent_is_not_sent_again),
    Guard("commit", "found[1] ~= wid", "false", scenarios.a_slot_is_given_back_by_who_holds_it),
    Guard("commit", "A.wv and not none_added(unknown)", "false", scenarios.outdated_waiters_are_noticed),
    Guard("send", "A.wv and not none_added(unknown)", "false", scenarios.outdated_waiters_are_noticed_by_a_send),
    Guard("flush", "if waiters.outdated() then", "if false then", waiting_scenarios.a_burst_does_not_pass_a_new_waiter),
    Guard(
        "send", "~= n then", "~= n and false then", waiting_scenarios.an_event_is_not_sent_past_a_new_waiter_among_many
    ),
    Guard(
        "send",
        "redis.call('ZLEXCOUNT', K.waiting, '[#', '($') ~= A.seen.kinds",
        "false",
        waiting_scenarios.an_event_is_not_sent_past_a_waiter_of_a_new_kind,
    ),
    Guard(
        "send",
        "unknown > 0",
        "false",
        waiting_scenarios.an_event_is_not_sent_past_a_waiter_that_an_older_release_added,
    ),
    Guard(
        "send",
        "redis.call('HEXISTS', K.waiters, field) == 0",
        "false",
        waiting_scenarios.a_waiter_is_answered_once,
    ),
    Guard(
        "commit",
        "A.iv and A.iv ~= counters.get('ia') + unknown",
        "false",
        waiting_scenarios.a_step_does_not_wait_past_an_event,
    ),
    Guard(
        "commit", "A.early ~= nil and not find_early(A.early)", "false", waiting_scenarios.an_early_event_answers_once
    ),
    Guard(
        "wake", "redis.call('HDEL', K.waiters, field) == 0", "false", scenarios.an_answered_waiter_is_not_resumed_again
    ),
    Guard("commit", "redis.call('HEXISTS', K.scopes, c.id .. '/' .. c.s) == 1", "false", scenarios.take_fires_once),
    Guard("commit", "redis.call('HEXISTS', K.scopes, id .. '/' .. join.s) == 0", "true", scenarios.take_fires_once),
    Guard("commit", "  scopes.count(c.p, 1)", "", scenarios.an_open_fan_out_inside_keeps_its_surroundings_open),
    Guard("commit", "known.t == A.t", "false", scenarios.a_commit_is_answered_again),
    Guard("send", "if redis.call('ZSCORE', K.received, A.id) then", "if false then", scenarios.a_send_counts_once),
    Guard("start", "known[1] ~= A.nonce", "false", scenarios.a_start_counts_once),
    Guard("finish", "if status ~= 'running' then", "if false then", scenarios.the_first_end_wins),
    Guard("commit", "if status ~= 'running' then", "if false then", scenarios.the_first_end_wins),
    Guard("finish", "if not due or due > call.now then", "if false then", scenarios.a_run_times_out_only_when_due),
    Guard("wake", "if not due or due > call.now then", "if false then", scenarios.a_timer_waits),
    Guard("deadline", "if not due or due > call.now then", "if false then", scenarios.a_deadline_waits),
    Guard("stage", "redis.call('LLEN', list) == item.at", "true", scenarios.a_repeated_chunk_is_staged_once),
    Guard("collect", "if known then return { known } end", "", scenarios.a_collected_set_is_given_once),
    Guard("park", "mine or record.state == 'ready'", "true", scenarios.parked_work_is_not_parked_by_others),
    Guard(
        "commit",
        "local field = step .. ':' .. (h + 1)",
        "local field = step .. ':' .. t",
        scenarios.a_queue_is_first_in_first_out,
    ),
    Guard("commit", "  join_buffers.forget(id)\n", "", scenarios.joins_end_with_their_fan_out),
    Guard("unstage", "redis.call('UNLINK', list) == 1", "true", scenarios.members_of_a_lost_attempt_are_cleared),
    Guard("stage", "size and size ~= A.size and not list", "false", scenarios.a_shorter_staging_replaces_the_longer),
    Guard("retire", "if status ~= 'running' then", "if true then", scenarios.a_running_run_is_not_retired),
    Guard("redispatch", "record.state == 'ready'", "true", scenarios.what_is_claimed_is_not_rung_for),
    Guard("revive", "or status == 'completed'", "", scenarios.a_completed_run_is_not_revived),
    Guard("unpark", "record.state == 'parked'", "true", scenarios.what_was_not_parked_is_not_taken_up),
]


def named(guard: Guard) -> str:
    return f"{guard.verb}: {guard.text.strip()}"


@pytest.mark.parametrize("guard", GUARDS, ids=named)
def test_a_missing_guard_is_noticed(client: Client, settings: Settings, guard: Guard) -> None:
    guard.scenario(checked_store(client, settings))

    apart = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:mutant"})
    mutant = mutant_store(client, apart, {guard.verb: (guard.text, guard.without)})

    with pytest.raises((AssertionError, ResponseError)):
        guard.scenario(mutant)


#: What random runs never meet, or not in a short time: a wrong slot in Redis, an older release, and two clients or
#: steps that concurrently answer, or begin to wait for, the same event.
UNSEEN = (
    scenarios.a_slot_is_given_back_by_who_holds_it,
    waiting_scenarios.an_event_is_not_sent_past_a_waiter_that_an_older_release_added,
    waiting_scenarios.an_event_is_not_sent_past_a_new_waiter_among_many,
    waiting_scenarios.an_event_is_not_sent_past_a_waiter_of_a_new_kind,
    waiting_scenarios.a_burst_does_not_pass_a_new_waiter,
    waiting_scenarios.a_waiter_is_answered_once,
)
#: Guards that a short random run of the model test must notice. The others need what it never does: large fan-outs in
#: every world, collected sets, or a wrong slot in Redis.
SEEN_BY_MODEL = [
    guard
    for guard in GUARDS
    if guard.verb in ("commit", "claim", "flush", "send", "lose", "wake") and guard.scenario not in UNSEEN
]


@pytest.mark.parametrize("guard", SEEN_BY_MODEL, ids=named)
def test_the_model_notices_a_missing_guard(client: Client, settings: Settings, guard: Guard) -> None:
    for seed in range(7, 20):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{seed}"})
        world = FaultyWorld(client, own, seed, **{guard.verb: (guard.text, guard.without)})  # loads all scripts
        try:
            world.run_for(2500)
        except (AssertionError, ResponseError):
            return
    pytest.fail(f"random runs do not notice that {guard.verb}.lua lacks {guard.text!r}")


def test_a_guard_that_is_not_there_cannot_be_taken_out(client: Client, settings: Settings) -> None:
    with pytest.raises(LookupError, match="0 times"):
        mutant_store(client, settings, {"commit": ("no such text", "")})
    with pytest.raises(LookupError, match="times, not once"):
        mutant_store(client, settings, {"commit": ("redis.call", "")})
