"""The writers within one process: the queue in which they wait, and the renewal of locks."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from support.eventually import eventually
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.model.errors import StoreUnavailable
from umbel.orchestration.state.local_queue import FifoQueue, Ticket
from umbel.orchestration.state.lock_renewal import LockRenewal

# -- renewal -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal("test-renewal")
    yield portal
    portal.close()


def renewing(log: list[str], *, succeeds: bool = True) -> Callable[[str], Awaitable[bool]]:
    async def renew(token: str) -> bool:
        log.append(token)
        return succeeds

    return renew


def test_a_lock_is_renewed_until_its_end(portal: Portal) -> None:
    log: list[str] = []
    renewal = LockRenewal(portal, renewing(log), 0.02)
    lock = renewal.begin("lock")
    eventually(lambda: len(log) >= 3, "three renewals")
    lock.end()
    count = len(log)
    another = renewal.begin("another")
    eventually(lambda: log.count("another") >= 3, "the next one is renewed")
    another.end()

    assert log.count("lock") <= count + 1  # at most the one in progress


def test_a_lock_that_cannot_be_renewed_is_given_up(portal: Portal) -> None:
    log: list[str] = []
    lost = LockRenewal(portal, renewing(log, succeeds=False), 0.02).begin("lost")
    good = LockRenewal(portal, renewing(log), 0.02).begin("good")
    eventually(lambda: log.count("good") >= 5, "some rounds")
    good.end()

    assert log.count("lost") == 1
    lost.end()


def test_a_lock_is_renewed_again_after_an_outage(portal: Portal) -> None:
    log: list[str] = []

    async def renew(token: str) -> bool:
        log.append(token)
        if len(log) < 3:
            raise StoreUnavailable("away", where="")
        return True

    lock = LockRenewal(portal, renew, 0.02).begin("lock")
    eventually(lambda: len(log) >= 5, "renewals after the outage")
    lock.end()


def test_a_lock_is_no_longer_renewed_when_its_editor_has_vanished(portal: Portal) -> None:
    log: list[str] = []
    dropped = LockRenewal(portal, renewing(log), 0.02).begin("dropped")
    good = LockRenewal(portal, renewing(log), 0.02).begin("good")
    eventually(lambda: "dropped" in log, "a renewal")
    del dropped
    gc.collect()
    rounds, count = log.count("good"), log.count("dropped")
    eventually(lambda: log.count("good") >= rounds + 5, "some rounds")
    good.end()

    assert log.count("dropped") <= count + 1  # at most the one in progress


def test_a_lock_is_renewed_after_its_portal_was_closed_and_used_again(portal: Portal) -> None:
    log: list[str] = []
    renewal = LockRenewal(portal, renewing(log), 0.02)
    before = renewal.begin("before")
    eventually(lambda: "before" in log, "a renewal")
    portal.close()
    after = renewal.begin("after")
    eventually(lambda: "after" in log, "a renewal on the new loop")
    before.end()
    after.end()


# -- the queue of one process ------------------------------------------------------------------------------------------


def test_tickets_are_served_in_order_of_arrival() -> None:
    queue, woken = FifoQueue(), []
    first, second, third, fourth = (queue.join(lambda n=n: woken.append(n)) for n in range(4))  # type: ignore[misc]
    assert (first.granted, second.granted, woken) == (True, False, [])  # a writer that need not wait is not woken

    queue.leave(third)
    queue.leave(first)
    assert (second.granted, fourth.granted, woken) == (True, False, [1])
    queue.leave(first)
    assert not fourth.granted
    queue.leave(second)
    assert (fourth.granted, third.granted, woken) == (True, False, [1, 3])


def test_the_ticket_of_a_vanished_process_is_passed_on() -> None:
    queue = FifoQueue()
    vanished, waiting_too, waiting = (queue.join(lambda: None) for _ in range(3))
    del vanished, waiting_too
    gc.collect()
    queue.advance()

    assert waiting.granted


def test_one_whose_event_loop_is_closed_is_passed_over() -> None:
    def wake() -> None:
        raise RuntimeError("Event loop is closed")

    queue = FifoQueue()
    first, closed, second = queue.join(lambda: None), queue.join(wake), queue.join(lambda: None)
    queue.leave(first)

    assert second.granted
    queue.leave(closed)
    assert second.granted


def test_one_may_leave_while_another_is_being_let_in() -> None:
    """As the garbage collector causes it, at any point and in any thread."""
    queue = FifoQueue()
    first = queue.join(lambda: None)
    tickets: list[Ticket] = []
    tickets.append(queue.join(lambda: queue.leave(tickets[0])))
    third = queue.join(lambda: None)
    queue.leave(first)

    assert third.granted


def test_no_two_threads_hold_the_ticket_at_the_same_time() -> None:
    queue = FifoQueue()
    inside: list[int] = []
    seen: list[int] = []

    def visit() -> None:
        for _ in range(200):
            woken = threading.Event()
            ticket = queue.join(woken.set)
            if not ticket.granted:
                assert woken.wait(20)
            inside.append(1)
            seen.append(len(inside))
            inside.pop()
            queue.leave(ticket)

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [1] * 1600


async def test_a_ticket_that_makes_no_progress_lets_the_waiters_time_out() -> None:
    queue = FifoQueue()
    holder = queue.join(lambda: None)
    with pytest.raises(TimeoutError):
        await queue.take_turn(0.02)
    queue.leave(holder)

    assert (await queue.take_turn(0.02)).granted


def test_a_coroutine_that_is_dropped_while_it_waits_is_passed_over() -> None:
    queue = FifoQueue()
    holder = queue.join(lambda: None)

    async def drop_one() -> None:
        waiting = queue.take_turn(60)
        waiting.send(None)  # it waits now
        waiting.close()

    asyncio.run(drop_one())
    after = queue.join(lambda: None)
    queue.leave(holder)

    assert after.granted
