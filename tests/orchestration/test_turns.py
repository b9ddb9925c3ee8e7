"""What the writers of one process do among themselves: the line they stand in, and the thread that renews locks."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

from umbel.orchestration.state.local_queue import FifoQueue, Ticket
from umbel.orchestration.state.lock_renewal import RenewedLock


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.005)


# -- renewal -----------------------------------------------------------------------------------------------------------


def renewing(log: list[str], name: str, *, succeeds: bool = True) -> Callable[[], bool]:
    def renew() -> bool:
        log.append(name)
        return succeeds

    return renew


def test_a_lock_is_renewed_until_its_end() -> None:
    log: list[str] = []
    lock = RenewedLock(renewing(log, "lock"), 0.02)
    eventually(lambda: len(log) >= 3, "three renewals")
    lock.end()
    count = len(log)
    another = RenewedLock(renewing(log, "another"), 0.02)
    eventually(lambda: log.count("another") >= 3, "the thread serves others")
    another.end()

    assert log.count("lock") <= count + 1  # at most the one that was under way


def test_a_lock_that_cannot_be_renewed_is_given_up() -> None:
    log: list[str] = []
    gone = RenewedLock(renewing(log, "gone", succeeds=False), 0.02)
    good = RenewedLock(renewing(log, "good"), 0.02)
    eventually(lambda: log.count("good") >= 5, "some rounds")
    good.end()

    assert log.count("gone") == 1
    gone.end()


def test_a_lock_whose_editor_vanished_is_renewed_no_more() -> None:
    log: list[str] = []
    dropped = RenewedLock(renewing(log, "dropped"), 0.02)
    good = RenewedLock(renewing(log, "good"), 0.02)
    eventually(lambda: "dropped" in log, "a renewal")
    del dropped
    gc.collect()
    rounds, count = log.count("good"), log.count("dropped")
    eventually(lambda: log.count("good") >= rounds + 5, "some rounds")
    good.end()

    assert log.count("dropped") <= count + 1  # at most the one that was under way


# -- the line of one process -------------------------------------------------------------------------------------------


def test_turns_are_given_in_order_of_arrival() -> None:
    line, woken = FifoQueue(), []
    first, second, third, fourth = (line.join(lambda n=n: woken.append(n)) for n in range(4))  # type: ignore[misc]
    assert (first.granted, second.granted, woken) == (True, False, [0])

    line.leave(third)
    line.leave(first)
    assert (second.granted, fourth.granted, woken) == (True, False, [0, 1])
    line.leave(first)
    assert not fourth.granted
    line.leave(second)
    assert (fourth.granted, third.granted, woken) == (True, False, [0, 1, 3])


def test_the_turn_of_one_who_vanished_is_passed_on() -> None:
    line = FifoQueue()
    vanished, waiting_too, waiting = (line.join(lambda: None) for _ in range(3))
    del vanished, waiting_too
    gc.collect()
    line.advance()

    assert waiting.granted


def test_one_whose_event_loop_is_closed_is_passed_over() -> None:
    def wake() -> None:
        raise RuntimeError("Event loop is closed")

    line = FifoQueue()
    first, closed, second = line.join(lambda: None), line.join(wake), line.join(lambda: None)
    line.leave(first)

    assert second.granted
    line.leave(closed)
    assert second.granted


def test_one_may_leave_while_another_is_being_let_in() -> None:
    """As the garbage collector makes them, at any point and in any thread."""
    line = FifoQueue()
    first = line.join(lambda: None)
    turns: list[Ticket] = []
    turns.append(line.join(lambda: line.leave(turns[0])))
    third = line.join(lambda: None)
    line.leave(first)

    assert third.granted


def test_threads_never_have_a_turn_at_the_same_time() -> None:
    line = FifoQueue()
    inside: list[int] = []
    seen: list[int] = []

    def visit() -> None:
        for _ in range(200):
            woken = threading.Event()
            turn = line.join(woken.set)
            if not turn.granted:
                assert woken.wait(20)
            inside.append(1)
            seen.append(len(inside))
            inside.pop()
            line.leave(turn)

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [1] * 1600
