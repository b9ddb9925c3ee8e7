"""A random world: many runs, several owners, every fault; the replies of Redis are checked after each operation."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from support.model.compare import agree, compare, compare_shard
from support.model.items import Ahead, Item
from support.model.live_run import LiveRun
from support.model.looking import agree_on_repetition, judged, looked, still_holds
from support.model.plans import random_event, random_outcome, random_plan
from support.model.reference import ModelRun
from support.model.world_store import WorldStore
from support.store.blocking import blocking_store
from support.store.driving import event
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.leases import Leases
from umbel.orchestration.model.commands import Command, Publish
from umbel.orchestration.model.decide import CHUNK, Limits, decide, decide_start, route, routed_events
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.suspicion import NO_SUSPECTS, ONE_SUSPECT, Room
from umbel.orchestration.model.waiters import Surroundings
from umbel.orchestration.model.work_item import Origin, Outcome, Returned, Work, derive_id
from umbel.orchestration.store.replies import Applied, CarryOn, Dispatch, Refusal

#: A small inbox, so that it overflows.
LIMITS = Limits(inbox_max_events=4)

#: The suspects that a process may take: none, up to level 1, up to level 2, a single one of any level (most common).
ROOMS = (NO_SUSPECTS, Room(1), Room(2), ONE_SUSPECT, ONE_SUSPECT)


class World:
    """Runs operations and keeps the models in step. `managing.py` and `operations.py` add more operations."""

    def __init__(
        self, client: Client, settings: Settings, seed: int, *, large: bool = False, **mutations: tuple[str, str]
    ) -> None:
        self.rng = random.Random(seed)
        settings = settings.model_copy(update={"waiters_indexed_from": self.rng.choice((0, 1, 2, 16))})
        self.store = blocking_store(settings, client, partial(WorldStore, rng=self.rng, mutations=mutations))
        self.leases = self.store.over(Leases)
        self.client, self.large = client, large
        self.runs: list[LiveRun] = []
        self.births = 4
        self.owners = [f"owner{n}" for n in range(self.births)]
        self.held: dict[tuple[str, int], set[str]] = {}
        self.fenced: set[tuple[str, int]] = set()
        self.started = self.steps = 0
        self.busy: Work | str | None = None  # the work whose decision is about to be applied
        self.winds_down = False  # steps no longer lead to new work
        self.log: list[str] = []

    # -- shared by operations --------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Keep the last operations for a failure report."""
        self.log.append(text)
        del self.log[:-40]

    def shard(self, run: LiveRun) -> int:
        return self.store.locate(run.model.run_id).shard

    def holding(self, owner: str, shard: int) -> set[str]:
        return self.held.setdefault((owner, shard), set())

    def let_go(self, run: LiveRun, work: Work) -> None:
        self.holding(work.owner, self.shard(run)).discard(work.member)

    def heard(self, run: LiveRun, reply: object, what: str) -> None:
        """Check that an applied verb returned the dispatches that the model requested; some are lost on the way."""
        assert isinstance(reply, Applied), f"{what}: {reply!r}"
        expected = sorted(run.model.dispatched())
        agree(f"dispatches of {what}", sorted((b.work_id, b.dispatch_no) for b in reply.dispatches), expected)
        agree(f"{what} ended the run", reply.ended, reply.ended and run.model.status != "running")
        in_order = sorted(reply.dispatches, key=lambda dispatch: (dispatch.work_id, dispatch.dispatch_no))
        run.dispatches += [dispatch for dispatch in in_order if self.rng.random() < 0.95]

    def reborn(self, owner: str) -> None:
        """A lost process continues, or is replaced, under another name."""
        self.births += 1
        self.owners = [f"owner{self.births}" if name == owner else name for name in self.owners]

    def due(self, run: LiveRun, timer: str) -> None:
        """Make a timer due."""
        self.client.zadd(self.store.locate(run.model.run_id)["timers"], {timer: 1}, xx=True)

    # -- operations of one step ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a new run."""
        run_id = f"run{self.started:05d}"
        self.started += 1
        model = ModelRun(run_id, random_plan(self.rng, f"W{self.started}"))
        asked = {
            "commands": decide_start(model.plan, run_id, event(START), LIMITS),
            "nonce": f"n{run_id}",
            "timeout_seconds": self.rng.choice((None, 3600)),
        }
        run = LiveRun(model, asked)
        self.runs.append(run)
        if asked["timeout_seconds"]:
            model.timers.add(model.timer("timeout"))
        model.apply(asked["commands"])
        self.heard(run, self.store.start(run_id, model.plan, **asked), "start")
        model.remembered["start"] = ("", Applied(tuple(run.dispatches)), 0.0)

    def start_again(self, run: LiveRun) -> None:
        """Repeat a start whose reply was lost; another client also tries to use its id."""
        asked = run.start | {"nonce": "another"}
        agree("start by another", self.store.start(run.model.run_id, run.model.plan, **asked), Refusal.EXISTS)
        assert isinstance(self.store.start(run.model.run_id, run.model.plan, **run.start), Applied)

    def claim(self, run: LiveRun) -> None:
        """Deliver a dispatch, possibly an old one, to some process."""
        if not run.dispatches:
            return
        ready = {item.work_id for item in run.model.in_state("ready")}
        wanted = [dispatch for dispatch in run.dispatches if dispatch.work_id in ready]
        if not wanted and self.rng.random() < 0.7:
            return
        dispatch = self.rng.choice(wanted if wanted and self.rng.random() < 0.8 else run.dispatches)
        run.dispatches = run.dispatches[-200:]
        self.follow(run, dispatch, self.rng.choice(self.owners), self.rng.choice(ROOMS))

    def follow(self, run: LiveRun, dispatch: Dispatch, owner: str, room: Room = ONE_SUSPECT) -> None:
        model, shard = run.model, self.shard(run)
        claim_id = f"c{self.rng.randrange(10**12)}"
        item = model.items.get(dispatch.work_id)
        expected: Refusal | None = None
        if (owner, shard) in self.fenced:
            expected = Refusal.FENCED
        elif model.status != "running":
            expected = Refusal.CLOSED
        elif item is None or item.state not in ("ready", "running"):
            expected = Refusal.STALE
        elif item.state == "running":
            expected = Refusal.BUSY
        elif dispatch.dispatch_no > item.dispatches:
            expected = Refusal.STALE
        elif item.suspicion > room.suspicion:
            expected = Refusal.SUSPECT
        reply = self.store.claim(
            model.run_id, dispatch.work_id, dispatch.dispatch_no, claim_id=claim_id, owner=owner, room=room
        )
        self.note(f"{model.run_id} claim {dispatch.step} {dispatch.work_id} by {owner}: {expected or 'claimed'}")
        if expected is Refusal.FENCED:
            self.reborn(owner)
        if expected is not None or item is None:
            agree(f"claim of {dispatch.work_id}", reply, expected)
            return
        assert isinstance(reply, Work), f"claim of {dispatch.work_id}: {reply!r}"
        model.claimed(item, claim_id, owner)
        item.alone = bool(item.suspicion) and room.alone
        self.took(run, item, reply)

    def took(self, run: LiveRun, item: Item, reply: Work) -> None:
        """Record an answered claim, or the claim with which a commit continues."""
        model = run.model
        self.holding(reply.owner, self.shard(run)).add(reply.member)
        self._check_claim(run, item, reply)
        run.works.append(reply)
        agree("leftovers", bool(reply.segments), item.work_id in model.staged)
        if reply.segments:
            self.store.unstage(reply, CHUNK)
        model.staged.pop(item.work_id, None)

    def _check_claim(self, run: LiveRun, item: Item, work: Work) -> None:
        model = run.model
        agree("token", work.token, item.token)
        agree("events", work.bound, tuple(model.events[event_id][0] for event_id in item.event_ids))
        agree(
            "answers",
            work.answers,
            {name: None if e is None else model.events[e][0] for name, e in item.answers.items()},
        )
        agree("recoveries", work.recoveries, item.spent)
        agree("attempt", work.attempt, item.failures + item.losses + 1)
        agree("version", work.version, model.version)
        agree("sent early", work.sent_early, item.sent is not None)
        if item.gathered is not None:
            agree("size of a fan-in", work.members, len(item.gathered[1]))
            if self.rng.random() < 0.3:
                agree("members of a fan-in", self.store.members(work), item.gathered[1])

    def commit(self, run: LiveRun) -> None:
        """An attempt reports its outcome; sometimes one that was lost long ago."""
        usable = [work for work in run.works if work.token not in run.doomed and work is not self.busy]
        late = run.stale and self.rng.random() < 0.15
        if late:
            self.report(run, self.rng.choice(run.stale))
        elif usable:
            self.report(run, self.rng.choice(usable))

    def report(self, run: LiveRun, work: Work) -> None:
        model, rng = run.model, self.rng
        ending = Returned(None) if self.winds_down else None
        outcome = run.outcomes.get(work.token) or ending or self.outcome(run, work)
        around = self.look(run, routed_events(outcome))
        decision = decide(model.plan, work, outcome, around, LIMITS)
        if not decision.staged:
            self.interlude(run, work)
        item = run.item_of(work)
        batches = (item.batches if item else 0) + (rng.random() < 0.05)
        known, answer, at = model.remembered.get(work.work_id, ("", None, 0.0))
        remembered = answer if known == work.token else None
        if remembered is not None and time.monotonic() > at + 50:
            return  # Redis is about to forget it
        again = model.went_on.get(work.token)
        if decision.staged and remembered is None:
            agree("staging", self.store.stage(work, decision, CHUNK), self.refusal(run, work))
        if decision.staged and item is not None:
            run.outcomes[work.token] = outcome
            items = [i for staged in decision.staged.values() for i in staged]
            model.staged[work.work_id] = Ahead(
                {i.event_id: i.uses for i in items if i.deliver is not None},
                {f":{i.member_of}" for i in items if i.member_of is not None},
            )
            if item is not None and rng.random() < 0.4:  # the process dies between staging and commit
                run.doomed.add(work.token)
                return
        expected: Refusal | None = self.refusal(run, work)
        if expected is None and item is not None and item.batches != batches:
            expected = Refusal.MISSING
        flags = {"sensitive": decision.sensitive, "found_nothing": decision.found_nothing, "own": work.work_id}
        holds = still_holds(model, around, decision.commands, **flags)
        now = decide(model.plan, work, outcome, model.surroundings, LIMITS).commands
        carry_on = None
        if again is not None:  # the reply was lost of a commit that had only a continuation
            about = {"surroundings": around, "batches": 0, "entry": {}, "carry_on": again}
            taken = self.store.commit(work, model.plan, decision, **about)
            self.note(f"{model.run_id} commit {work.step} {work.work_id} again")
            agree_on_repetition(model, taken, again, self.refusal(run, work))
            return
        if remembered is None and rng.random() < 0.4:
            not_steps = tuple(sorted(rng.sample(list(model.plan.by_name), rng.randint(0, 1))))
            carry_on = CarryOn(f"k{rng.randrange(10**12)}", not_steps)
        taken = self.store.commit(
            work, model.plan, decision, surroundings=around, batches=batches, entry={}, carry_on=carry_on
        )
        if expected is None and remembered is None:
            seen = around.seen is not None
            if not judged(taken, holds=holds, seen=seen, decided=decision.commands, now=now):
                expected = Refusal.CHANGED
        self.note(
            f"{model.run_id} commit {work.step} {work.work_id} {type(outcome).__name__}: {expected or 'committed'}"
        )
        if remembered is not None:
            agree("a repeated commit", taken, remembered)
            return
        if expected not in (Refusal.MISSING, Refusal.CHANGED):
            self.let_go(run, work)
        if expected is not None:
            agree(f"commit of {work.work_id}", taken, expected)
            if expected in (Refusal.STALE, Refusal.CLOSED) and work in run.works:
                run.works.remove(work)
            return
        assert item is not None
        model.timers.discard(model.timer("deadline", work.work_id))
        model.commits += 1
        model.staged.pop(work.work_id, None)
        model.carry = (carry_on.claim_id, work.owner, carry_on.not_steps) if carry_on is not None else None
        model.apply(decision.commands, item, decision)
        carried, model.carry, model.carried = model.carried, None, None
        self.heard(run, taken, f"commit {type(outcome).__name__}")
        assert isinstance(taken, Applied)
        if carry_on is not None and taken == Applied(continued=taken.continued) and taken.continued is not None:
            model.went_on[work.token] = carry_on
        else:
            model.remembered[work.work_id] = (work.token, replace(taken, continued=None), time.monotonic())
        run.works.remove(work)
        run.stale = [*run.stale[-5:], work]
        if carried is None or model.status != "running":
            agree("what a commit goes on with", taken.continued, None)
        else:
            assert taken.continued is not None, f"nothing to go on with, expected {carried.work_id}"
            self.took(run, carried, taken.continued)

    def outcome(self, run: LiveRun, work: Work) -> Outcome:
        """Return a possible outcome of a step."""
        return random_outcome(self.rng, work, len(run.model.items), large=self.large)

    def refusal(self, run: LiveRun, work: Work) -> Refusal | None:
        """Return the refusal that a verb under this work's token must get."""
        if run.model.status != "running":
            return Refusal.CLOSED
        return None if run.item_of(work) is not None else Refusal.STALE

    def look(self, run: LiveRun, events: Sequence[Envelope]) -> Surroundings:
        """Look up what matters to a decision, as an engine does."""
        if not events or self.rng.random() < 0.5:
            return run.model.surroundings
        return looked(self.store, run.model, events)

    def interlude(self, run: LiveRun, work: Work | None = None) -> None:
        """Let something else happen to the run, not to this work, between the look and the script."""
        if self.busy is not None or self.rng.random() < 0.7:
            return
        self.busy = work or "somebody"
        self.rng.choice(self.between())(run)
        self.busy = None

    def between(self) -> list[Callable[[LiveRun], None]]:
        """Return what may happen in between."""
        return [self.claim, self.commit, self.commit, self.flush]

    def flush(self, run: LiveRun) -> None:
        """An attempt sends and publishes before its end; a later attempt may send the same events again."""
        candidates = [work for work in (*run.works, *run.stale[-1:]) if work is not self.busy]
        if not candidates:
            return
        model, work = run.model, self.rng.choice(candidates)
        item = run.item_of(work)
        batch = (item.batches if item else 0) + self.rng.choice((0, 1, 1, 1, 1, 2))
        if batch == 0:
            return
        numbers = self.rng.sample(range(4), self.rng.randint(0, 2))
        events = [event("ABCD"[n], k=n, sender=work.work_id) for n in numbers]
        origin = Origin(model.run_id, work.work_id, recoveries=work.recoveries)

        def routed(around: Surroundings) -> list[tuple[str, list[Command]]]:
            sends = []
            for n, what in zip(numbers, events, strict=True):
                identity = derive_id(work.work_id, "sent", n)
                sends.append((identity, route(model.plan, what, origin, identity, around, LIMITS)))
                around = around.after(what)
            return sends

        around = self.look(run, events)
        sends = routed(around)
        self.interlude(run, work)
        publishes = [Publish(random_event(self.rng), work.step, work.attempt)] * self.rng.randint(0, 2)
        reply = self.store.flush(work, model.plan, batch=batch, surroundings=around, publishes=publishes, sends=sends)
        self.note(f"{model.run_id} flush {work.step} {work.work_id} batch {batch} of {len(sends)}: {reply!r:.20}")
        expected, item = self.refusal(run, work), run.item_of(work)
        if item is not None and expected is None:
            if item.batches >= batch:
                agree("a repeated flush", reply, Applied())
                return
            if batch > item.batches + 1:
                expected = Refusal.MISSING
            else:
                decided = [command for _, commands in sends for command in commands]
                holds = still_holds(model, around, decided, sensitive=bool(sends))
                now = [command for _, commands in routed(model.surroundings) for command in commands]
                if not judged(reply, holds=holds, seen=around.seen is not None, decided=decided, now=now):
                    expected = Refusal.CHANGED
        if expected is not None or item is None:
            agree("flush", reply, expected)
            return
        item.batches = batch
        model.seq += len(publishes)
        for identity, commands in sends:
            item.sent = set() if item.sent is None else item.sent
            if identity not in item.sent:
                item.sent.add(identity)
                model.apply(commands)
        self.heard(run, reply, "flush")

    # -- the loop --------------------------------------------------------------------------------------------------

    def play(self, operations: Sequence[tuple[Callable[[LiveRun], None], int]], scripts: int) -> None:
        """Run random operations until this many scripts have run.

        Raises:
            Mismatch: Redis and the model disagree.
        """
        choices, weights = [o for o, _ in operations], [w for _, w in operations]
        while self.store.scripts < scripts:
            self.steps += 1
            if len(self.runs) < 6:
                self.start()
            busy = [r for r in self.runs if r.model.status == "running" and r.model.in_state("ready", "running")]
            run = self.rng.choice(busy if busy and self.rng.random() < 0.8 else self.runs)
            run.age += 1
            self.rng.choices(choices, weights)[0](run)
            if self.rng.random() < 0.12:
                compare(self.store, run.model)
            if self.steps % 200 == 0:
                self.look_at_shards()

    def look_at_shards(self) -> None:
        for shard in range(self.store.settings.shards):
            compare_shard(self.store, shard, self.held, self.fenced)
