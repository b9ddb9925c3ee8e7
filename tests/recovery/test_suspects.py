"""How many suspects are let in to be executed in one process."""

from __future__ import annotations

from concurrent.futures import Future, wait

from umbel.orchestration.model.suspicion import CROWDS, ONE_SUSPECT, Room
from umbel.tasks.attempt.suspects import Permit, Suspects, give_up_permit


def granted(asked: list[Future[Permit]]) -> list[Permit]:
    return [future.result() for future in asked if future.done() and not future.cancelled()]


def test_suspects_begin_with_one_and_each_that_ends_well_lets_one_more_in() -> None:
    suspects = Suspects()
    asked = [suspects.ask(1) for _ in range(15)]
    sizes, done = [], 0
    while done < len(asked):
        at_work = granted(asked)[done:]
        sizes.append(len(at_work))
        done += len(at_work)
        for turn in at_work:
            turn.end(went_well=True)

    assert sizes == [1, 2, 4, 8]


def test_who_did_not_get_its_claim_has_proved_nothing() -> None:
    suspects = Suspects()
    asked = [suspects.ask(1) for _ in range(3)]
    granted(asked)[0].end(went_well=False)

    assert len(granted(asked)) == 2


def test_suspects_that_survive_for_long_let_others_in_before_they_end() -> None:
    suspects = Suspects()
    asked = [suspects.ask(1) for _ in range(4)]
    assert len(granted(asked)) == 1

    done, _ = wait(asked, timeout=20)

    assert len(done) == 4


def test_a_suspect_of_the_highest_level_is_alone() -> None:
    suspects = Suspects()
    first, alone, beside = suspects.ask(1), suspects.ask(len(CROWDS)), suspects.ask(1)
    assert first.result().room == Room(1)
    assert not alone.done()
    first.result().end(went_well=True)
    assert not alone.done(), "there is one who is suspected less"
    beside.result().end(went_well=True)
    assert alone.result().room == ONE_SUSPECT
    late = suspects.ask(1)
    assert not late.done()
    alone.result().end(went_well=True)
    assert late.done()


def test_the_most_suspected_at_work_says_how_many_may_be_beside_it() -> None:
    suspects = Suspects()
    for _ in range(CROWDS[1] + 5):
        suspects.ask(1).result().end(went_well=True)
    asked = [suspects.ask(2), *(suspects.ask(1) for _ in range(CROWDS[1] + 2))]

    assert len(granted(asked)) == CROWDS[1]


def test_where_one_step_is_executed_at_a_time_each_suspect_is_alone() -> None:
    suspects = Suspects(one_at_a_time=True)
    asked = [suspects.ask(1) for _ in range(3)]
    for n in range(3):
        assert len(granted(asked)) == n + 1
        assert asked[n].result().room == ONE_SUSPECT
        asked[n].result().end(went_well=True)


def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    suspects = Suspects()
    asked = [suspects.ask(1) for _ in range(3)]
    give_up_permit(asked[1])
    give_up_permit(asked[0])  # it was given, and is given back

    assert asked[2].done()
