"""Scenarios of waiters and the inbox, each of which needs one guard: decisions on outdated surroundings are refused."""

from __future__ import annotations

from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, DrivenRun, event, plan_of, step, waiting
from umbel.orchestration.model.commands import Command
from umbel.orchestration.model.decide import decide, route
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.waiters import Surroundings, Waiter
from umbel.orchestration.model.work_item import Origin, Suspended, Work
from umbel.orchestration.store.replies import Applied, Refusal

#: Far beyond `waiters_indexed_from`, so that one HSCAN does not find them all.
MANY = 100
PLAN = plan_of(step("begin", START), step("ask", "A", num_workers=2 * MANY))


def waits_for(work: Work, type_: str = "Answer", **requirements: object) -> Suspended:
    return Suspended(Waiter(work.work_id, "w", work.step, type_, requirements), None, None)


class Waiting:
    """A run whose steps wait for answers with these numbers."""

    def __init__(self, store: Store, *numbers: int) -> None:
        self.store = store
        self.run = DrivenRun(store, PLAN).start()
        self.begin = self.run.claim("begin")
        for number in numbers:
            self.wait(n=number)

    def asks(self) -> Work:
        self.run.send(event("A"))
        return self.run.claim("ask")

    def wait(self, type_: str = "Answer", **requirements: object) -> Work:
        work = self.asks()
        self.run.commit(work, waits_for(work, type_, **requirements))
        return work

    def look(self, answer: Envelope) -> Surroundings:
        around: Surroundings = self.store.waiters_for(self.run.run_id, [answer])
        return around

    def routed(self, answer: Envelope, around: Surroundings, name: str = "e") -> list[Command]:
        return route(PLAN, answer, Origin(self.run.run_id, "outside"), name, around, LIMITS)

    def send(self, answer: Envelope, around: Surroundings, name: str = "e") -> Applied | Refusal:
        reply: Applied | Refusal = self.store.send(
            self.run.run_id, name, self.routed(answer, around, name), surroundings=around
        )
        return reply


def an_event_is_not_sent_past_a_new_waiter(store: Store) -> None:
    waiting_run, answer = Waiting(store), event("Answer", n=1)
    around = waiting_run.look(answer)
    waiting_run.wait(n=1)
    assert waiting_run.send(answer, around) is Refusal.CHANGED


def an_event_is_not_sent_past_a_new_waiter_among_many(store: Store) -> None:
    waiting_run, answer = Waiting(store, *range(MANY)), event("Answer", n=1)
    around = waiting_run.look(answer)
    waiting_run.wait(n=1)
    assert waiting_run.send(answer, around) is Refusal.CHANGED


def an_event_is_not_sent_past_a_waiter_of_a_new_kind(store: Store) -> None:
    waiting_run, answer = Waiting(store, *range(MANY)), event("Answer", n=1, by="me")
    around = waiting_run.look(answer)
    waiting_run.wait(by="me")
    assert waiting_run.send(answer, around) is Refusal.CHANGED


def an_event_is_not_sent_past_a_waiter_that_an_older_release_added(store: Store) -> None:
    waiting_run, answer = Waiting(store, *range(MANY)), event("Answer", n=1)
    around = waiting_run.look(answer)
    work = waiting_run.asks()
    older = b'{"s":"ask","t":"Answer","r":{"n":1},"sub":false}'
    store.client.hset(waiting_run.run.keys["waiters"], f"{work.work_id}|w", older)
    store.client.hincrby(waiting_run.run.keys["run"], "wv", 1)
    assert waiting_run.send(answer, around) is Refusal.CHANGED
    assert len(waiting_run.look(answer).waiters) == MANY + 1


def a_burst_does_not_pass_a_new_waiter(store: Store) -> None:
    waiting_run, answer = Waiting(store), event("Answer", n=1)
    around = waiting_run.look(answer)
    waiting_run.wait(n=1)
    sends = [("e", waiting_run.routed(answer, around))]
    reply = store.flush(waiting_run.begin, PLAN, batch=1, surroundings=around, publishes=[], sends=sends)
    assert reply is Refusal.CHANGED


def a_waiter_is_answered_once(store: Store) -> None:
    waiting_run, answer = Waiting(store, 1), event("Answer", n=1)
    around = waiting_run.look(answer)
    assert isinstance(waiting_run.send(answer, around, "first"), Applied)
    assert waiting_run.send(answer, around, "second") is Refusal.CHANGED


def a_step_does_not_wait_past_an_event(store: Store) -> None:
    waiting_run = Waiting(store)
    begin, before = waiting_run.begin, store.surroundings(waiting_run.run.run_id)
    waiting_run.run.send(event("Answer"))
    decision = decide(PLAN, begin, waiting(begin), before, LIMITS)
    assert store.commit(begin, PLAN, decision, surroundings=before, batches=0, entry={}) is Refusal.CHANGED


def an_early_event_answers_once(store: Store) -> None:
    waiting_run = Waiting(store)
    waiting_run.run.send(event("Answer"))
    before, works = store.surroundings(waiting_run.run.run_id), [waiting_run.begin, waiting_run.asks()]
    replies = [
        store.commit(
            work, PLAN, decide(PLAN, work, waiting(work), before, LIMITS), surroundings=before, batches=0, entry={}
        )
        for work in works
    ]
    assert isinstance(replies[0], Applied)
    assert replies[1] is Refusal.CHANGED
