"""Verbs of runs that wait for admission or for their turn in a session, as cases that may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches
from support.store.driving import LIMITS, event
from support.store.verb_case import PLAN, Case
from umbel.orchestration.engine.concurrency import Admission, RunQuota
from umbel.orchestration.model.decide import decide_start
from umbel.orchestration.model.envelope import START
from umbel.orchestration.store.replies import Applied


def places(store: Store) -> tuple[RunQuota, list[Admission]]:
    """Two runs, one of which may execute; neither has asked for admission yet."""
    commands = decide_start(PLAN, "r", event(START), LIMITS)
    tickets = []
    for run_id in ("r", "s"):
        store.start(run_id, PLAN, commands, nonce="n", timeout_seconds=9, num_concurrent_runs=1)
        member = store.client.hget(store.locate(run_id)["run"], "ticket")
        tickets.append(Admission.of(PLAN.workflow, member.decode()))
    return store.over(RunQuota, SentDispatches()), tickets


def admit(store: Store) -> Case:
    asking, (first, _) = places(store)
    return Case("admit", lambda: asking.admit(first, 1, said_at=1))


def admit_to_the_line(store: Store) -> Case:
    asking, (first, second) = places(store)
    asking.admit(first, 1, said_at=1)
    return Case("admit", lambda: asking.admit(second, 1, said_at=1))


def leave(store: Store) -> Case:
    asking, (first, second) = places(store)
    for ticket in (first, second):
        asking.admit(ticket, 1, said_at=1)
    return Case("leave", lambda: asking.leave(first), again=lambda _: [])


def begin(store: Store) -> Case:
    asking, (first, _) = places(store)
    asking.admit(first, 1, said_at=1)
    return Case("begin", lambda: asking.begin(first))


def start_to_wait(store: Store) -> Case:
    commands = decide_start(PLAN, "r", event(START), LIMITS)
    given: dict[str, Any] = {"nonce": "n", "timeout_seconds": 9, "num_concurrent_runs": 1}
    return Case("start", lambda: store.start("r", PLAN, commands, **given))


def revive_to_wait(store: Store) -> Case:
    _, (first, _) = places(store)
    store.finish(first.run_id, "cancelled", event("x"))
    return Case("revive", lambda: store.revive(first.run_id, timeout_seconds=9), again=lambda _: "running")


def session(store: Store, runs: int, when_busy: str) -> Callable[[], Any]:
    """Create a session with this many runs; returns a function that starts one more."""

    def begin(run_id: str, when_busy: str) -> Any:
        commands = decide_start(PLAN, run_id, event(START), LIMITS)
        return store.start(run_id, PLAN, commands, nonce="n", timeout_seconds=9, when_busy=when_busy)

    for n in range(runs):
        begin(f"h.{n}", "queue")
    return lambda: begin("h.next", when_busy)


def start_in_line(store: Store) -> Case:
    return Case("start", session(store, 1, "queue"))


def start_in_place_of_another(store: Store) -> Case:
    return Case("start", session(store, 2, "interrupt"))


def finish_before_others(store: Store) -> Case:
    session(store, 3, "queue")
    return Case("finish", lambda: store.finish("h.0", "cancelled", event("x")), again=lambda _: None)


def finish_in_line(store: Store) -> Case:
    session(store, 3, "queue")
    return Case("finish", lambda: store.finish("h.1", "cancelled", event("x")), again=lambda _: None)


def advance(store: Store) -> Case:
    session(store, 2, "queue")
    store.client.hset(store.locate("h.0")["run"], "status", "cancelled")  # an earlier release ends it like this
    return Case("advance", lambda: store.advance("h.0", look_again_at=1), again=lambda _: Applied())


def open_session(store: Store) -> Case:
    about: dict[str, Any] = {"id": "i", "source": "g", "body": {"k": b"1"}}
    return Case("open", lambda: store.verb("open", "h.new", **about))


def close_session(store: Store) -> Case:
    session(store, 1, "queue")
    return Case("close", lambda: store.verb("close", "h.any"))


def delete_session(store: Store) -> Case:
    session(store, 1, "queue")
    store.finish("h.0", "cancelled", event("x"))
    return Case("close", lambda: store.verb("close", "h.any", delete=True))


QUEUED: dict[str, Callable[[Store], Case]] = {
    "admit": admit,
    "admit to the line": admit_to_the_line,
    "leave": leave,
    "begin": begin,
    "start to wait": start_to_wait,
    "revive to wait": revive_to_wait,
    "start in line": start_in_line,
    "start in place of another": start_in_place_of_another,
    "finish before others": finish_before_others,
    "finish in line": finish_in_line,
    "advance": advance,
    "open a session": open_session,
    "close a session": close_session,
    "close and delete a session": delete_session,
}
