"""Random workflows and random outcomes for the model test."""

from __future__ import annotations

import random
from dataclasses import replace

from support.store.driving import event, failed, plan_of, step
from umbel.orchestration.model.decide import CHUNK
from umbel.orchestration.model.envelope import INPUT_REQUIRED, START, STEP_FAILED, STOP, Envelope
from umbel.orchestration.model.plan import Plan, StepPlan
from umbel.orchestration.model.waiters import Waiter
from umbel.orchestration.model.work_item import FannedOut, Outcome, Returned, Suspended, Work

TYPES = ("A", "B", "C", "D", "M", "N")


def random_event(rng: random.Random) -> Envelope:
    """Return an event of some class, sometimes with a parent class."""
    parents = rng.choice(((), (), (), ("A",), ("M",), (INPUT_REQUIRED,)))
    return event(rng.choice((*TYPES, "M", "N")), *parents, k=rng.randint(1, 3), n=rng.randrange(10**9))


def random_plan(rng: random.Random, name: str) -> Plan:
    """Return a workflow in which any event may lead to any other."""
    collectors = [
        step(f"gather{i}", *rng.sample(("M", "N", "C"), rng.randint(1, 2)), kind="collect", take=_take(rng))
        for i in range(rng.randint(0, 3))
    ]
    names = [collector.name for collector in collectors]

    def with_limits(plain: StepPlan) -> StepPlan:
        return replace(
            plain,
            num_workers=rng.choice((1, 1, 2, 3)),
            queue=rng.choice((None, None, "gpu")),
            priority=rng.choice((None, None, 5)),
            timeout_seconds=rng.choice((None, 60.0)),
            collected_by=tuple(rng.sample(names, rng.randint(0, len(names)))),
        )

    each = [
        step(f"step{i}", *rng.sample(TYPES, rng.randint(1, 3)), accepts_subclasses=rng.random() < 0.3)
        for i in range(rng.randint(2, 4))
    ]
    joins = [
        step(f"pair{i}", *rng.choices(TYPES, k=rng.randint(2, 3)), kind="all_of") for i in range(rng.randint(0, 2))
    ]
    rescue = [step("rescue", STEP_FAILED, recovers=("*",))] if rng.random() < 0.5 else []
    steps = [with_limits(plain) for plain in (step("begin", START), *each, *joins, *rescue, *collectors)]
    return replace(plan_of(*steps), workflow=name)


def _take(rng: random.Random) -> int | None:
    return rng.choice((None, None, 1, 2))


def random_outcome(rng: random.Random, work: Work, live: int, *, large: bool) -> Outcome:
    """Return a possible outcome of a step; the more work is live, the less it adds."""
    if large and live < 6 and rng.random() < 0.04:
        same = tuple(random_event(rng) for _ in range(3))
        return FannedOut(tuple(replace(rng.choice(same)) for _ in range(CHUNK + rng.randint(1, 9))))
    if live > 25 and rng.random() < 0.8:
        return Returned(None)
    kind = rng.random()
    if kind < 0.2:
        return Returned(None)
    if kind < 0.5:
        return Returned(random_event(rng))
    if kind < 0.7:
        return FannedOut(tuple(random_event(rng) for _ in range(rng.choice((0, 1, 2, 3, 5)))))
    if kind < 0.82:
        return failed(rng.choice((0, 3600)))
    if kind < 0.84:
        return failed()
    if kind < 0.99:
        needs = rng.choice(({}, {}, {"k": 1}, {"k": 2}))
        name = f"w{len(work.answers)}"
        waiter = Waiter(work.work_id, name, work.step, rng.choice(TYPES), needs, rng.random() < 0.2)
        return Suspended(waiter, rng.choice((None, random_event(rng))), rng.choice((None, 3600)))
    return Returned(event(STOP, n=rng.randrange(10**9)))
