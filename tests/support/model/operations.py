"""More operations of the world: sends, losses, heartbeats, timers, ends, revivals; and the checks at a run's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.model.compare import agree, compare
from support.model.live_run import LiveRun
from support.model.looking import judged, still_holds
from support.model.managing import ManagedWorld
from support.model.plans import random_event
from support.model.world import LIMITS
from support.store.driving import event
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.history.verify import verify
from umbel.orchestration.model.commands import Resume
from umbel.orchestration.model.decide import route
from umbel.orchestration.model.suspicion import MOST
from umbel.orchestration.model.work_item import Origin, Work, derive_id
from umbel.orchestration.store.replies import Applied, Dispatch, Refusal


class FaultyWorld(ManagedWorld):
    """All operations combined."""

    def between(self) -> list[Callable[[LiveRun], None]]:
        return [*super().between(), self.send, self.timer]

    def run_for(self, scripts: int) -> None:
        """Play, then bring every run to its end and check what is left over.

        Raises:
            Mismatch: Redis and the model disagree; the last operations are in `log`.
        """
        self.play(self.operations(), scripts)
        for run in list(self.runs):
            self.drain(run)
        self.look_at_shards()

    def operations(self) -> list[tuple[Callable[[LiveRun], None], int]]:
        """Return the operations with their weights."""
        return [
            (self.claim, 36),
            (self.commit, 36),
            (self.flush, 8),
            (self.send, 8),
            (self.redispatch, 4),
            (self.lose, 2),
            (self.late_loss, 2),
            (self.heartbeat, 4),
            (self.timer, 5),
            (self.park, 2),
            (self.claim_again, 2),
            (self.start_again, 1),
            (self.retire, 4),
            (self.verify, 1),
        ]

    def verify(self, run: LiveRun) -> None:
        """Check that the journal replays to the run as it is."""
        found = self.store.call(verify, self.store, run.model.run_id)
        agree("what the journal leads to", [str(each) for each in found.differences], [])

    # -- from outside ----------------------------------------------------------------------------------------------

    def send(self, run: LiveRun) -> None:
        model = run.model
        send_id = f"s{self.rng.randrange(40)}"
        what, origin, emit_id = (
            random_event(self.rng),
            Origin(model.run_id, "outside"),
            derive_id(model.run_id, send_id),
        )
        around = self.look(run, [what])
        commands = route(model.plan, what, origin, emit_id, around, LIMITS)
        self.interlude(run)
        reply = self.store.send(model.run_id, send_id, commands, surroundings=around)
        self.note(f"{model.run_id} send {send_id}: {reply!r:.20}")
        if send_id in model.received:
            agree("a repeated send", reply, Applied())
        elif model.status != "running":
            agree("a send", reply, Refusal.CLOSED)
        elif judged(
            reply,
            holds=still_holds(model, around, commands),
            seen=around.seen is not None,
            decided=commands,
            now=route(model.plan, what, origin, emit_id, model.surroundings, LIMITS),
        ):
            model.received.add(send_id)
            model.apply(commands)
            self.heard(run, reply, "send")

    def redispatch(self, run: LiveRun) -> None:
        items = list(run.model.items.values())
        some = self.rng.sample(items, min(len(items), 3))
        if some:
            self.dispatch(run, [(item.work_id, item.line) for item in some])

    def dispatch(self, run: LiveRun, some: list[tuple[str, str]]) -> None:
        for work_id, _ in some:
            item = run.model.items.get(work_id)
            if run.model.status == "running" and item is not None and item.state == "ready":
                item.dispatches += 1
                run.model.dispatches.append((work_id, item.dispatches))
        self.heard(run, self.leases.redispatch(run.model.run_id, some), "redispatching")

    # -- owners ----------------------------------------------------------------------------------------------------

    def lose(self, run: LiveRun) -> None:
        """An owner dies; its work is handed back, possibly by two sweeps, the first of which died half-way."""
        owner, shard = self.rng.choice(self.owners), self.shard(run)
        held = self.holding(owner, shard)
        leases = self.store.keys.in_shard(shard, "leases")
        known_dead = self.rng.random() < 0.5
        expired = not known_dead and self.rng.random() < 0.7
        if expired:
            self.client.zadd(leases, {owner: 1}, xx=True)
        found = self.leases.fence(owner, shard, known_dead=known_dead)
        dead = known_dead or (expired and held)
        self.note(f"lose {owner} in {shard} known={known_dead} expired={expired} with {len(held)}")
        agree("what a lost owner held", {each.member for each in found}, held if dead else set())
        if not dead:
            return
        self.fenced.add((owner, shard))
        while found:
            found = sorted(found, key=lambda each: each.member)  # the same order in every replay
            some = found[: self.rng.randint(1, len(found))]
            self.handed_back(owner, shard, some, charge=True)
            if self.rng.random() < 0.3:
                self.handed_back(owner, shard, some, charge=True)
            found = self.leases.fence(owner, shard)
            agree("what is left of a lost owner", {each.member for each in found}, held)
        agree("lease of a lost owner", self.client.zscore(leases, owner), None)
        if self.rng.random() < 0.5:  # otherwise it lives and does not know
            self.reborn(owner)

    def late_loss(self, run: LiveRun) -> None:
        """A sweep that was stalled for a long time hands back a claim that has changed since."""
        if run.stale:
            items = run.model.items
            # The most revealing case: the same owner has claimed the same work again since.
            again = [w for w in run.stale if w.work_id in items and items[w.work_id].owner == w.owner]
            work = self.rng.choice(again or run.stale)
            self.handed_back(work.owner, self.shard(run), [Held.parse(work.member)], charge=True)

    def handed_back(self, owner: str, shard: int, some: list[Held], *, charge: bool) -> None:
        for each in some:
            self.holding(owner, shard).discard(each.member)
            run = next((run for run in self.runs if run.model.run_id == each.run_id), None)
            if run is not None:
                self._lost(run, each, owner, charge=charge)
        for run_id, applied in self.leases.hand_back(owner, some, charge=charge):
            run = next((run for run in self.runs if run.model.run_id == run_id), None)
            if run is None:
                agree("dispatches of a forgotten run", applied.dispatches, ())
            else:
                self.heard(run, applied, "handing back")

    def _lost(self, run: LiveRun, held: Held, owner: str, *, charge: bool) -> None:
        item = run.model.items.get(held.work_id)
        for work in [work for work in run.works if work.member == held.member]:
            run.works.remove(work)
            run.stale = [*run.stale[-5:], work]
        if run.model.status != "running" or item is None or item.state != "running":
            return
        if item.claim_id != held.claim_id or item.owner != owner:
            return
        if charge:
            item.losses += 1
            item.charged += item.alone
            item.suspicion = min(MOST, item.suspicion + 1)
        run.model.timers.discard(run.model.timer("deadline", item.work_id))
        run.model.dispatch(item)

    def heartbeat(self, run: LiveRun) -> None:
        """An owner reports the work it believes it holds: too little after a lost reply, too much after a fence."""
        owner, shard = self.rng.choice(self.owners), self.shard(run)
        held = [Held.parse(member) for member in sorted(self.holding(owner, shard))]
        believed = {each for each in held if self.rng.random() < 0.9}
        extra = {Held(run.model.run_id, f"x{n}", "c") for n in range(self.rng.randint(0, 1))}
        if not believed | extra:
            return
        gone = (owner, shard) in self.fenced
        beyond = [] if gone else [each for each in held if each not in believed]
        for each in beyond:
            self.holding(owner, shard).discard(each.member)
            other = next((run for run in self.runs if run.model.run_id == each.run_id), None)
            if other is not None:
                self._lost(other, each, owner, charge=False)
        pulse = self.leases.heartbeat(owner, believed | extra)
        for run_id, applied in pulse.handed_back:
            other = next((run for run in self.runs if run.model.run_id == run_id), None)
            if other is None:
                agree("dispatches of a forgotten run", applied.dispatches, ())
            else:
                self.heard(other, applied, "a heartbeat that hands back")
        self.note(f"heartbeat {owner} in {shard}: {len(beyond)} beyond, gone={gone}")
        agree("heartbeat hears of its death", pulse.fenced, gone)
        if gone:
            self.reborn(owner)
        else:
            agree("heartbeat hears what was lost", set(pulse.lost), extra)

    def claim_again(self, run: LiveRun) -> None:
        """A claim is repeated long after its reply was lost."""
        mine = [work for work in run.works if run.item_of(work) and (work.owner, self.shard(run)) not in self.fenced]
        if not mine:
            return
        work = self.rng.choice(mine)
        again = self.store.claim(work.run_id, work.work_id, 1, claim_id=work.claim_id, owner=work.owner)
        assert isinstance(again, Work), again
        agree(
            "a claim repeated late", (again.token, again.bound, again.answers), (work.token, work.bound, work.answers)
        )

    # -- timers ----------------------------------------------------------------------------------------------------

    def timer(self, run: LiveRun) -> None:
        model = run.model
        if not model.timers:
            return
        of_work = sorted(timer for timer in model.timers if not timer.startswith("timeout"))
        timer = self.rng.choice(of_work if of_work and self.rng.random() < 0.95 else sorted(model.timers))
        kind, _, *rest = timer.split("|")
        due = self.rng.random() < 0.8 and (kind != "timeout" or self.rng.random() < 0.02)
        if due:
            self.due(run, timer)
        self.note(f"{model.run_id} timer {timer} due={due}")
        if kind == "timeout":
            ended = self.store.finish(model.run_id, "timed_out", event("late"), if_due=True)
            agree("a run's time-out", bool(ended), due and model.status == "running")
            if ended:
                model.finish("timed_out")
            return
        work_id, waiter_id = rest[0], rest[1] if len(rest) > 1 else ""
        applied = self.leases.wake(model.run_id, timer, kind, work_id, waiter_id)
        if not due:
            agree("a timer that is not due", applied, None)
            return
        model.timers.discard(timer)
        if model.status != "running":
            agree("a timer of an ended run", applied, None)
            return
        self._woken(run, kind, work_id, waiter_id)
        self.heard(run, applied, f"waking {kind}")

    def _woken(self, run: LiveRun, kind: str, work_id: str, waiter_id: str) -> None:
        model, item = run.model, run.model.items.get(work_id)
        if kind == "waiter":
            model.apply([Resume(work_id, waiter_id, None)])
        elif kind == "retry" and item is not None and item.state == "delayed":
            model.place(item)
        elif kind == "deadline" and item is not None and item.state == "running":
            item.late = True
            for work in [work for work in run.works if work.token == item.token]:
                run.works.remove(work)
                run.stale = [*run.stale[-5:], work]
            model.dispatch(item)

    # -- set aside, ended, revived ---------------------------------------------------------------------------------

    # -- draining --------------------------------------------------------------------------------------------------

    def drain(self, run: LiveRun) -> None:
        """Let everything that can still happen in a run happen, without further faults; then nothing may be left."""
        model = run.model
        for moves in range(10_000):
            self.winds_down = moves > 1000  # fan-outs can follow each other for a long time
            if model.status != "running" or not model.items:
                break
            self.move(run)
        self.winds_down = False
        assert model.status != "running" or not model.items, f"{model.run_id} does not come to its end"
        if model.status == "running":
            compare(self.store, model)
            agree("what is left of finished work", [*model.slots_in_use(), *model.scopes, *model.waiters], [])
            keep = {kept for buffers in model.joins.values() for b in buffers.values() for kept, _ in b}
            agree("events of finished work", set(model.events), keep)
            self.cancel(run)
        self.leave(run)

    def move(self, run: LiveRun) -> None:
        """Make the next possible thing happen."""
        model = run.model
        if model.parked:
            self.unpark(run)
        for work in list(run.works):
            if run.item_of(work) is None:
                run.works.remove(work)
            elif work.token in run.doomed:
                self.handed_back(work.owner, self.shard(run), [Held.parse(work.member)], charge=True)
            else:
                self.report(run, work)
                return
        ready = model.in_state("ready")
        if ready:
            self.dispatch(run, [(item.work_id, item.line) for item in ready])
            item = ready[0]
            dispatch = Dispatch(model.run_id, item.work_id, item.dispatches, item.step.name, "umbel", 0)
            self.follow(run, dispatch, f"last{self.rng.randrange(10**6)}")
            return
        orphans = list(model.in_state("running"))
        for item in orphans:  # held by an owner that no longer knows
            held = Held(model.run_id, item.work_id, str(item.claim_id))
            self.handed_back(str(item.owner), self.shard(run), [held], charge=False)
        if not orphans:
            self._pass_time(run)

    def _pass_time(self, run: LiveRun) -> None:
        """Nothing is running: timers fire, and waiters without a timer are given up."""
        model = run.model
        work_timers: list[Any] = [t for t in sorted(model.timers) if not t.startswith("timeout")]
        for timer in work_timers:
            kind, _, work_id, *waiter = timer.split("|")
            self.due(run, timer)
            applied = self.leases.wake(model.run_id, timer, kind, work_id, waiter[0] if waiter else "")
            model.timers.discard(timer)
            self._woken(run, kind, work_id, waiter[0] if waiter else "")
            self.heard(run, applied, "draining")
        if not work_timers:
            self.give_up(run)

    def give_up(self, run: LiveRun) -> None:
        """Cancel a run in which nothing can happen any more."""
        self.cancel(run)
