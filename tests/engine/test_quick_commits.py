"""A quick commit leaves in Redis exactly what an ordinary commit leaves, and readers receive the same from both."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgpack
import pytest

from support.store.blocking import Blocking, blocking_store
from support.store.blocking import BlockingStore as Store
from support.store.checks import CheckedStore
from support.store.driving import LIMITS, event, plan_of, step, stop, work_on
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.emitted import Emitted
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.engine.quick import QuickCommits
from umbel.orchestration.model.commands import Publish
from umbel.orchestration.model.decide import decide
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.model.waiters import Surroundings
from umbel.orchestration.model.work_item import FannedOut, Outcome, Returned, Work
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.replies import Applied, CarryOn, Dispatch
from umbel.orchestration.store.scripts import pack

T = TypeVar("T")

RUN = "the-run"
#: Instants of Redis, in ms or us: the two runs do not happen in the same millisecond.
_INSTANT = re.compile(rb"(?<!\d)1[789]\d{11}(\d{3})?(?!\d)")


class NoMessages:
    """A dispatcher that only records its dispatches."""

    def __init__(self) -> None:
        self.dispatches: list[Dispatch] = []

    async def dispatch(self, _plan: Plan, dispatches: Any) -> None:
        self.dispatches += dispatches

    def dispatch_soon(self, _plan: Plan, dispatches: Any) -> None:
        self.dispatches += dispatches


class CountingStore(CheckedStore):
    """Counts the commits that were hops."""

    hops = 0

    async def send_script(self, call: ScriptCall[T]) -> T:
        reply = await super().send_script(call)
        self.hops += call.script.name == "hop" and reply is not None
        return reply


class Lane:
    """One of two deployments on which the same operations are executed."""

    def __init__(self, client: Client, settings: Settings, *, quick: bool) -> None:
        self.settings = settings.model_copy(
            update={"key_prefix": f"{settings.key_prefix}:{'quick' if quick else 'ordinary'}", "quick_commits": quick}
        )
        self.store: Store = blocking_store(self.settings, client, CountingStore)
        self.messages = NoMessages()
        self.engine: Blocking = self.store.over(Engine, self.messages)
        self.client = client
        self.heard = client.pubsub()
        self.heard.subscribe(self.store.locate(RUN)["stream"])
        assert self.heard.get_message(timeout=5)["type"] == "subscribe"

    def messages_heard(self) -> list[Any]:
        """Return the messages that readers have received since the last call."""
        found = []
        while (message := self.heard.get_message(timeout=0.2)) is not None:
            found.append(plain(message["data"]))
        return found

    def left(self) -> dict[str, Any]:
        """Return all keys of the deployment, without instants and the order of maps."""
        prefix = f"{self.settings.key_prefix}:"
        return {
            key.decode().removeprefix(prefix): content(self.client, key)
            for key in sorted(self.client.scan_iter(f"{prefix}*", count=1000))
            if not key.endswith(b":deployment")  # names the deployment
        }


def content(client: Client, key: bytes) -> Any:
    kind = client.type(key)
    if kind == b"hash":
        return {field.decode(): plain(value) for field, value in client.hgetall(key).items() if field != b"nonce"}
    if kind == b"zset":
        return sorted(plain(member) for member in client.zrange(key, 0, -1))
    if kind == b"set":
        return sorted(member.partition(b"}")[2] or member for member in client.smembers(key))
    if kind == b"list":
        return [plain(each) for each in client.lrange(key, 0, -1)]
    if kind == b"stream":
        is_journal = key.endswith(b":journal")
        return [
            ("" if is_journal else number, {name: plain(value) for name, value in fields.items()})
            for number, fields in client.xrange(key)
        ]
    return plain(client.get(key))


def plain(data: bytes) -> Any:
    """Return a stored value in a comparable form."""
    if data[:1] and data[0] >= 0x80:
        try:
            return without_instants(msgpack.unpackb(data, raw=True, strict_map_key=False))
        except ValueError:
            pass
    return _INSTANT.sub(b"<instant>", data)


def without_instants(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_instants(each) for key, each in value.items() if key not in (b"@", b"nonce")}
    if isinstance(value, list):
        return [without_instants(each) for each in value]
    if isinstance(value, bytes):
        return plain(value)
    return "<instant>" if isinstance(value, int | float) and value > 1e12 else value


@pytest.fixture
def lanes(client: Client, settings: Settings) -> Iterator[tuple[Lane, Lane]]:
    made = Lane(client, settings, quick=True), Lane(client, settings, quick=False)
    yield made
    for lane in made:
        lane.heard.close()


def random_plan(chosen: random.Random) -> Plan:
    """Return steps that accept one or several of the events E0 … E3, with all kinds of limits."""
    names = [f"s{n}" for n in range(chosen.randint(2, 4))]
    accepts: dict[str, list[str]] = {name: [] for name in names}
    for kind in ("E0", "E1", "E2", "E3"):
        for name in chosen.sample(names, 2 if chosen.random() < 0.15 else 1):
            accepts[name].append(kind)
    steps = [step("begin", START, num_workers=chosen.randint(1, 2), collected_by=("gather",))]
    for name in names:
        steps.append(
            step(
                name,
                *accepts[name] or ["E9"],
                num_workers=chosen.randint(1, 3),
                queue=chosen.choice([None, "other"]),
                priority=chosen.choice([None, None, 5]),
                timeout_seconds=chosen.choice([None, None, 30.0]),
                collected_by=("gather",),
            )
        )
    steps.append(step("gather", "G", kind="collect"))
    return plan_of(*steps)


def random_outcome(chosen: random.Random, number: int) -> Outcome:
    def made() -> Envelope:
        kind = chosen.choices(["E0", "E1", "E2", "E3", "G", "Nobody's"], [8, 8, 8, 8, 3, 0.3])[0]
        return event(kind, *parents, text="x" * size)

    size, parents = chosen.choice([0, 10, 300, 300, 1900, 5000]), chosen.choice([(), (), ("Above",)])
    if number > 25:
        return stop("end")
    roll = chosen.random()
    if roll < 0.08:
        return FannedOut(tuple(made() for _ in range(chosen.randint(0, 4))))
    return Returned(None) if roll < 0.12 else stop(size) if roll < 0.15 else Returned(made())


def drive(lane: Lane, seed: int) -> int:
    """Execute one random run; return how many of its commits were hops."""
    chosen = random.Random(seed)
    plan, ready = random_plan(chosen), []
    lane.engine.start(RUN, plan, event(START))
    work: Work | None = None
    for number in range(60):
        ready += lane.messages.dispatches
        lane.messages.dispatches = []
        if work is None:
            if not ready:
                break
            found = ready.pop(chosen.randrange(len(ready)))
            claimed = lane.engine.claim(
                found.run_id, found.work_id, found.dispatch_no, claim_id=f"claim{number}", owner="owner"
            )
            if not isinstance(claimed, Work):
                continue
            work = claimed
        if chosen.random() < 0.03:
            lane.engine.send(RUN, f"send{number}", plan, event("E1", n=number), None)
        outcome = random_outcome(chosen, number)
        published = [Publish(event("P", n=number), work.step, 1)] if chosen.random() < 0.1 else []
        offer = CarryOn(f"next{number}", ("s1",) if chosen.random() < 0.1 else ())
        carry_on = offer if chosen.random() < 0.9 else None
        committed = lane.engine.commit(
            work, plan, outcome, Emitted(published), entry={"out": type(outcome).__name__}, carry_on=carry_on
        )
        assert isinstance(committed.reply, Applied), committed
        work = committed.reply.continued
    hops: int = lane.store.wrapped.hops
    return hops


@pytest.mark.parametrize("seed", range(60))
def test_a_quick_commit_leaves_exactly_what_an_ordinary_one_leaves(lanes: tuple[Lane, Lane], seed: int) -> None:
    quick, ordinary = lanes

    drive(quick, seed)
    drive(ordinary, seed)

    left, expected = quick.left(), ordinary.left()
    assert left.keys() == expected.keys()
    for name, found in left.items():
        assert found == expected[name], name
    assert quick.messages_heard() == ordinary.messages_heard()


def test_what_is_compared_above_has_many_hops(client: Client, settings: Settings) -> None:
    hops = 0
    for seed in range(60):
        apart = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{seed}"})
        lane = Lane(client, apart, quick=True)
        hops += drive(lane, seed)
        lane.heard.close()

    assert hops > 120


def chained(lane: Lane) -> tuple[Plan, Work]:
    plan = plan_of(step("begin", START), step("second", "A"), step("third", "B"))
    lane.engine.start(RUN, plan, event(START))
    found = lane.messages.dispatches.pop()
    work = lane.engine.claim(RUN, found.work_id, found.dispatch_no, claim_id="c", owner="owner")
    assert isinstance(work, Work)
    return plan, work


def test_a_quick_commit_whose_answer_was_lost_is_answered_the_same_again(lanes: tuple[Lane, Lane]) -> None:
    lane, _ = lanes
    plan, work = chained(lane)
    asked = (work, plan, Returned(event("A", n=1)), Emitted())

    first = lane.engine.commit(*asked, entry={}, carry_on=CarryOn("next"))
    left = lane.left()
    again = lane.engine.commit(*asked, entry={}, carry_on=CarryOn("next"))

    assert first.reply.continued == again.reply.continued
    assert lane.store.wrapped.hops == 1
    after = lane.left()
    counters = next(name for name in after if name.endswith("}:counters"))
    assert after.pop(counters)["repeated_commits"] == b"1"
    left.pop(counters, None)
    assert after == left


def test_a_quick_commit_with_an_old_token_changes_nothing(lanes: tuple[Lane, Lane]) -> None:
    lane, _ = lanes
    plan, work = chained(lane)
    run = lane.store.locate(RUN)["run"]

    before = lane.client.hgetall(run)
    stale = Work(**{**vars(work), "token": "0-nobody"})
    reply = lane.engine.commit(stale, plan, Returned(event("A")), Emitted(), entry={}, carry_on=CarryOn("next")).reply

    assert str(reply) == "stale"
    assert lane.client.hgetall(run) == before


def test_a_path_is_good_for_every_fan_out_whatever_the_length_of_its_id(store: Store) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("gather",)), step("leaf", "L"), step("gather", "M", kind="collect")
    )
    quick = QuickCommits(store.wrapped, LIMITS)
    returned = Returned(event("M", n=1))
    for scope_id in ("short", "a" * 20, "b" * 40, "c" * 300):
        work = work_on("leaf", scope=f"{scope_id}:begin")
        prepared = quick.prepared(work, plan, returned, Emitted())
        assert prepared is not None
        expected = decide(plan, work, returned, Surroundings(), LIMITS)
        assert prepared.decision.packed == pack([each.wire() for each in expected.commands])
