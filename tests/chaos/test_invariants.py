"""Each invariant can fail: for a run that violates it, its check names the run, the work item and what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from support.chaos.effect_log import book, bookings
from support.chaos.invariants import violations
from support.chaos.observed import Leftovers, RunSeen


def effect(work: str, number: int, what: str = "work", **more: Any) -> dict[str, Any]:
    return {"run": "r1", "what": what, "work": work, "attempt": 1, "token": f"{number}-c{number}", "pid": 7, **more}


def commit(work: str, step: str, number: int, **more: Any) -> tuple[int, str, dict[str, Any]]:
    return number, "commit", {"w": work, "s": step, "a": 1, "o": "w|h|7|i", "out": "returned", "t": number, **more}


def sound() -> RunSeen:
    """Return a run as it should be: two steps and a join."""
    return RunSeen(
        "r1",
        "fan-out",
        status="completed",
        result=[0, 1],
        expected=[0, 1],
        commits={"work": 2, "gather": 1},
        counted=3,
        journal=[(0, "start", {}), commit("a", "work", 1), commit("b", "work", 2), commit("j", "gather", 3)],
        numbers=[0, 1, 2, 3],
        published=[1, 3],
        read=[1, 3],
        last=3,
        seq=4,
        effects=[effect("a", 1), effect("b", 2), effect("j", 3, "gather", members=[0, 1])],
        booked=["r1/a", "r1/b"],
        lifetimes={"run": 1000, "journal": 1000},
    )


def test_nothing_is_said_of_a_sound_run_at_rest() -> None:
    assert violations([sound()], Leftovers(), most=1) == []


def unknown(run: RunSeen) -> None:
    run.status = None


def endless(run: RunSeen) -> None:
    run.status = "running"


def other_result(run: RunSeen) -> None:
    run.result = [0]


def outcome_twice(run: RunSeen) -> None:
    run.journal.append(commit("a", "work", 4))
    run.counted = 4


def uncounted_commit(run: RunSeen) -> None:
    run.counted = 4


def outcome_missing(run: RunSeen) -> None:
    del run.journal[1]
    run.counted = 2


def step_too_often(run: RunSeen) -> None:
    run.effects.append(effect("c", 4))
    run.journal.insert(1, commit("c", "work", 4))
    run.counted = 4


def other_members(run: RunSeen) -> None:
    run.effects.append(effect("j", 4, "gather", members=[0]))


def member_twice(run: RunSeen) -> None:
    run.effects[2]["members"] = [0, 0]


def join_twice(run: RunSeen) -> None:
    run.effects.append(effect("k", 4, "gather", members=[0, 1]))


def falling_tokens(run: RunSeen) -> None:
    run.journal[1:1] = [commit("a", "work", 5, out="failed", delay=0.1)]
    run.counted = 4


def older_token(run: RunSeen) -> None:
    run.effects.append(effect("a", 9))


def twice_under_one_token(run: RunSeen) -> None:
    run.effects.append(effect("a", 1))


def outcome_without_code(run: RunSeen) -> None:
    del run.effects[0]


def too_many_executions(run: RunSeen) -> None:
    run.effects.insert(0, effect("b", 1))


def booked_twice(run: RunSeen) -> None:
    run.booked.append("r1/a")


def two_ends(run: RunSeen) -> None:
    run.journal += [(5, "end", {}), (6, "end", {})]


def stream_after_end(run: RunSeen) -> None:
    run.last = 1


def no_end_in_stream(run: RunSeen) -> None:
    run.last = None


def journal_after_end(run: RunSeen) -> None:
    run.journal.append((9, "lost", []))


def hole(run: RunSeen) -> None:
    run.numbers.remove(2)


def number_twice(run: RunSeen) -> None:
    run.numbers.insert(1, 1)


def reader_missed_one(run: RunSeen) -> None:
    run.read = [3]


def reader_saw_one_twice(run: RunSeen) -> None:
    run.read = [1, 1, 3]


def key_without_expiry(run: RunSeen) -> None:
    run.lifetimes["journal"] = -1


def unlike_its_journal(run: RunSeen) -> None:
    run.unlike_journal = ["run[live]: expected b'1', found b'2'"]


BROKEN: list[tuple[str, Callable[[RunSeen], None], str]] = [
    ("I1", unknown, "Redis does not know it"),
    ("I1", endless, "it still runs"),
    ("I1", other_result, r"expected the result \[0, 1\], found \[0\]"),
    ("I2", outcome_twice, "work item a: expected one recorded outcome, found 2"),
    ("I2", uncounted_commit, "4 commits counted, 3 in the journal"),
    ("I2", outcome_missing, "work item a: its code has run .* no outcome is recorded"),
    ("I2", step_too_often, "expected 2 outcomes of step work, found 3"),
    ("I3", other_members, r"work item j: attempt 1 got the members \[0\], an earlier one \[0, 1\]"),
    ("I3", member_twice, "work item j: a member twice"),
    ("I3", join_twice, "2 joins fired with the members"),
    ("I4", falling_tokens, r"work item a: expected tokens that grow, found \[5, 1\]"),
    ("I4", older_token, "work item a: its outcome is recorded under token 1, but 9 was given out"),
    ("I5", twice_under_one_token, "work item a: work ran 2 times under one token"),
    ("I5", outcome_without_code, "work item a: an outcome of work is recorded, its code never ran"),
    ("I5", too_many_executions, "work item b: expected at most 1 executions, found 2"),
    ("I5", booked_twice, "the bank booked 2 times under r1/a"),
    ("I6", two_ends, "its journal has 2 ends"),
    ("I6", stream_after_end, "its stream goes on after its end"),
    ("I6", no_end_in_stream, "its stream has no end"),
    ("I6", journal_after_end, "expected its journal to end with what ended it, found 'lost'"),
    ("I7", key_without_expiry, "it has ended, and its key journal never expires"),
    ("I8", hole, r"lacks \[2\]"),
    ("I8", number_twice, r"has twice \[1\]"),
    ("I8", reader_missed_one, r"a reader was given \[3\]"),
    ("I8", reader_saw_one_twice, r"a reader was given \[1, 1, 3\]"),
    ("I11", unlike_its_journal, r"run\[live\]: expected b'1', found b'2'"),
]


@pytest.mark.parametrize(
    ("invariant", "breaks", "text"), BROKEN, ids=[f"{number}-{breaks.__name__}" for number, breaks, _ in BROKEN]
)
def test_a_run_that_breaks_an_invariant_is_named_with_it(
    invariant: str, breaks: Callable[[RunSeen], None], text: str
) -> None:
    run = sound()
    breaks(run)
    found_texts = [str(each) for each in violations([run], most=1) if each.invariant == invariant]
    assert any(re.search(f"^{invariant}: run r1.*{text}", line) for line in found_texts), found_texts


@pytest.mark.parametrize(
    ("invariant", "left"),
    [
        ("I7", Leftovers(indexed={"umbel:{01}:leases": ["w|h|7|i"]})),
        ("I7", Leftovers(held={"umbel:{01}:owner:w": ["r1|a|c"]})),
        ("I7", Leftovers(for_good=["umbel:{01}:state:r1:lock"])),
        ("I7", Leftovers(expiring=["umbel:{01}:state:r1"])),
        ("I10", Leftovers(missing_workers=["one"])),
    ],
    ids=["an index", "an owner", "a key", "a key of a run that goes on", "a worker that ended"],
)
def test_what_is_left_at_rest_is_named(invariant: str, left: Leftovers) -> None:
    assert [each.invariant for each in violations([sound()], left)] == [invariant]


def test_the_bank_books_once_under_a_key(tmp_path: Any) -> None:
    assert [book(tmp_path, "r1/a"), book(tmp_path, "r1/a"), book(tmp_path, "r2/a")] == [True, False, True]
    assert bookings(tmp_path, "r1") == ["r1/a"]
