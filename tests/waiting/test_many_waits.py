"""Many concurrently waiting steps of one run: each decision is made once, and reads only the waiters it concerns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.model.waiting_scenarios import waits_for
from support.store.blocking import BlockingStore, SentDispatches, blocking_store
from support.store.driving import DrivenRun, event, plan_of, step, stop
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.emitted import Emitted
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.waiters import Kind, Surroundings, Waiter, digests
from umbel.orchestration.model.work_item import FannedOut, Outcome, Returned, Work
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.verbs import Store

T = TypeVar("T")
WIDTH = 200
PLAN = plan_of(step("begin", START), step("ask", "A", num_workers=2 * WIDTH), step("note", "Note", num_workers=WIDTH))


class CountingStore(Store):
    """Counts scripts, and the waiters that are read for routing decisions."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scripts: Counter[str] = Counter()
        self.waiters_read = 0

    async def send_script(self, call: ScriptCall[T]) -> T:
        self.scripts[call.script.name] += 1
        return await super().send_script(call)

    async def waiters_for(self, run_id: str, events: Sequence[Envelope]) -> Surroundings:
        around = await super().waiters_for(run_id, events)
        self.waiters_read += len(around.waiters)
        return around


class Crowd:
    """A run of many concurrently waiting steps, and an engine that does everything concurrently."""

    def __init__(self, store: BlockingStore) -> None:
        self.store, self.counting = store, store.wrapped
        self.run = DrivenRun(store, PLAN).start()
        self.run.commit(self.run.claim("begin"), FannedOut(tuple(event("A", n=n) for n in range(WIDTH))))
        self.engine = Engine(self.counting, SentDispatches())

    def claim_all(self) -> list[Work]:
        return [self.run.claim("ask") for _ in range(WIDTH)]

    def count_from_here(self) -> None:
        self.counting.scripts.clear()
        self.counting.waiters_read = 0

    def commit(self, outcomes: Sequence[tuple[Work, Outcome]]) -> None:
        async def at_once() -> None:
            commits = (self.engine.commit(work, PLAN, outcome, Emitted(), entry={}) for work, outcome in outcomes)
            for committed in await asyncio.gather(*commits):
                self.run.heard(committed.reply)

        self.store.call(at_once)

    def send(self, *events: Envelope) -> None:
        async def at_once() -> None:
            sends = (self.engine.send(self.run.run_id, f"s{n}", PLAN, each, None) for n, each in enumerate(events))
            await asyncio.gather(*sends)

        self.store.call(at_once)
        self.run.dispatches.extend(self.engine.dispatcher.sent)
        self.engine.dispatcher.sent.clear()


@pytest.fixture
def crowd(client: Client, settings: Settings) -> Crowd:
    return Crowd(blocking_store(settings, client, CountingStore))


def numbered(work: Work) -> int:
    return int(work.bound[0].value()["n"])


def test_steps_that_begin_to_wait_at_once_are_each_decided_once(crowd: Crowd) -> None:
    works = crowd.claim_all()
    crowd.count_from_here()
    crowd.commit([(work, waits_for(work, n=numbered(work))) for work in works])

    assert crowd.counting.scripts == {"commit": WIDTH}
    assert len(crowd.store.surroundings(crowd.run.run_id).waiters) == WIDTH


def test_answers_at_once_are_each_decided_once_and_look_at_their_waiter_only(crowd: Crowd) -> None:
    crowd.commit([(work, waits_for(work, n=numbered(work))) for work in crowd.claim_all()])
    crowd.count_from_here()
    crowd.send(*(event("Answer", n=n) for n in range(WIDTH)))

    assert crowd.counting.scripts == {"send": WIDTH}
    assert crowd.counting.waiters_read == WIDTH
    resumed = crowd.claim_all()
    assert [(numbered(work), work.answers["w"]) for work in resumed] == [
        (n, event("Answer", n=n)) for n in map(numbered, resumed)
    ]
    assert crowd.store.surroundings(crowd.run.run_id).waiters == ()


def test_answers_are_decided_once_while_other_steps_begin_to_wait(crowd: Crowd) -> None:
    works = crowd.claim_all()
    half = WIDTH // 2
    crowd.commit([(work, waits_for(work, n=numbered(work))) for work in works[:half]])
    crowd.count_from_here()

    async def at_once() -> None:
        await asyncio.gather(
            *(crowd.engine.send(crowd.run.run_id, f"s{n}", PLAN, event("Answer", n=n), None) for n in range(half)),
            *(
                crowd.engine.commit(work, PLAN, waits_for(work, n=numbered(work)), Emitted(), entry={})
                for work in works[half:]
            ),
        )

    crowd.store.call(at_once)

    assert crowd.counting.scripts["send"] == half
    assert crowd.counting.scripts["commit"] <= half + 5  # those that did not see an index yet
    assert {waiter.requirements["n"] for waiter in crowd.store.surroundings(crowd.run.run_id).waiters} == {
        numbered(work) for work in works[half:]
    }


def test_what_steps_return_beside_many_waits_is_decided_once(crowd: Crowd) -> None:
    works = crowd.claim_all()
    half = WIDTH // 2
    crowd.commit([(work, waits_for(work, n=numbered(work))) for work in works[:half]])
    again = [event("A", n=n) for n in range(half)]
    crowd.send(*again)
    late = [crowd.run.claim("ask") for _ in again]  # they know that there is a waiter
    crowd.count_from_here()
    crowd.commit([(work, Returned(event("Note"))) for work in late])

    assert crowd.counting.scripts == {"commit": half}
    assert crowd.counting.waiters_read == 0


def test_a_step_that_routes_nothing_asks_for_no_waiters(crowd: Crowd) -> None:
    works = crowd.claim_all()
    crowd.commit([(work, waits_for(work)) for work in works])
    crowd.send(event("A", n=0))
    late = crowd.run.claim("ask")
    assert late.version > 0
    transactions = crowd.store.client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"]
    crowd.commit([(late, stop("done"))])

    assert crowd.store.client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"] == transactions


def test_an_event_answers_all_of_many_that_wait_for_it(crowd: Crowd) -> None:
    crowd.commit([(work, waits_for(work)) for work in crowd.claim_all()])
    crowd.send(event("Answer", n=1))

    assert all(work.answers == {"w": event("Answer", n=1)} for work in crowd.claim_all())


def test_early_answers_are_given_once_each(crowd: Crowd) -> None:
    crowd.send(*(event("Answer", n=n) for n in range(WIDTH)))
    crowd.commit([(work, waits_for(work, n=numbered(work))) for work in crowd.claim_all()])

    assert all(work.answers["w"] == event("Answer", n=numbered(work)) for work in crowd.claim_all())
    assert crowd.store.surroundings(crowd.run.run_id).inbox == ()


def test_waiters_that_an_older_release_stored_are_answered(crowd: Crowd) -> None:
    works = crowd.claim_all()
    crowd.commit([(work, waits_for(work, n=numbered(work))) for work in works])
    keys, client = crowd.run.keys, crowd.store.client
    for name in client.hkeys(keys["waiters"]):
        waiter = Waiter.from_bytes(name.decode(), client.hget(keys["waiters"], name))
        older = f'{{"s":"ask","t":"Answer","r":{{"n":{waiter.requirements["n"]}}},"sub":false}}'
        client.hset(keys["waiters"], name, older)
    client.hdel(keys["run"], "wa", "wr", "ia")
    client.delete(keys["waiting"])
    crowd.count_from_here()
    crowd.send(*(event("Answer", n=n) for n in range(WIDTH)))

    assert crowd.counting.scripts == {"send": WIDTH}
    assert all(work.answers["w"] == event("Answer", n=numbered(work)) for work in crowd.claim_all())
    assert client.hlen(keys["waiters"]) == 0


# -- the index ---------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5, 1e17]) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=4,
)
fields = st.dictionaries(st.sampled_from("kmn"), values, max_size=3)


@given(fields, fields, st.booleans(), st.sampled_from(["Answer", "Special"]), st.booleans())
def test_a_digest_is_equal_exactly_if_the_event_answers(
    wanted: dict[str, Any], given: dict[str, Any], subclasses: bool, type_: str, is_dynamic: bool
) -> None:
    waiter = Waiter("item", "w", "ask", "Answer", wanted, subclasses)
    what = event(type_, *(["Answer"] if type_ == "Special" else []), **({"_data": given} if is_dynamic else given))
    kind = Kind("Answer", subclasses, tuple(sorted(wanted)))

    assert ([kind.digest(wanted)] == digests([Kind.from_text(kind.to_text())], [what])) == waiter.matches(what)


def test_a_waiter_with_deeply_nested_requirements_is_answered(crowd: Crowd) -> None:
    works = crowd.claim_all()
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    crowd.commit([(work, waits_for(work, n=numbered(work), deep=deep)) for work in works])
    crowd.send(event("Answer", n=3, deep=deep))

    assert numbered(crowd.run.claim("ask")) == 3


def test_only_waiters_that_an_event_answers_are_read(crowd: Crowd) -> None:
    crowd.commit([(work, waits_for(work, n=numbered(work))) for work in crowd.claim_all()])
    around: Surroundings = crowd.store.waiters_for(crowd.run.run_id, [event("Answer", n=1), event("Answer", m=1)])

    assert [waiter.requirements for waiter in around.waiters] == [{"n": 1}]
    assert around.seen is not None
    assert list(around.seen.counts.values()) == [1]
