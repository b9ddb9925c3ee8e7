"""Operations of a wider world: steps run child runs, single steps are cancelled."""

from __future__ import annotations

from collections.abc import Callable

from support.model.compare import agree
from support.model.live_run import LiveRun
from support.model.looking import looked
from support.model.operations import FaultyWorld
from support.model.plans import random_event
from support.model.world import LIMITS
from support.store.driving import event
from umbel.orchestration.engine.cancelling.selection import Selection
from umbel.orchestration.engine.cancelling.step_cancels import cancel_work
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.commands import Command
from umbel.orchestration.model.decide import route
from umbel.orchestration.model.work_item import AwaitedChild, Awaiting, Origin, Outcome, Scope, Work, derive_id
from umbel.orchestration.store.replies import Applied


class WiderWorld(FaultyWorld):
    """A world with cancelled steps and child runs, of which only the parents exist."""

    def operations(self) -> list[tuple[Callable[[LiveRun], None], int]]:
        return [*super().operations(), (self.cancel_step, 2), (self.child_started, 3), (self.child_ended, 6)]

    def outcome(self, run: LiveRun, work: Work) -> Outcome:
        """Return a possible outcome: sometimes it runs children, some of which an earlier execution may have begun."""
        rng, begun = self.rng, [name for name in work.answers if name.startswith("child|")]
        if work.run_id.endswith(("0", "5")) and len(begun) < 4 and rng.random() < 0.2:
            number = rng.randint(1, 3)
            ids = [f"{work.work_id}.{len(begun) + n}" for n in range(number)]
            awaited = tuple(self._awaited(child_id) for child_id in ids if f"child|{child_id}" not in work.answers)
            if awaited:
                return Awaiting(awaited, rng.choice((None, 1, 2)))
        return super().outcome(run, work)

    def _awaited(self, child_id: str) -> AwaitedChild:
        about = self.rng.choice(("cancel", "leave", "wait"))
        return AwaitedChild(child_id, f"child|{child_id}", "W", "digest", b"{}", "E", b"spec", about)

    def child_started(self, run: LiveRun) -> None:
        family = run.model.family
        known = [child_id for child_id, child in family.children.items() if child.status in ("starting", "running")]
        if not known:
            return
        child_id = self.rng.choice(known)
        self.note(f"{run.model.run_id} child {child_id} was started")
        reply = self.store.verb("child_started", run.model.run_id, child=child_id, look=1000)
        agree("the start of a child", reply[0], b"noted")
        family.started(child_id)

    def child_ended(self, run: LiveRun) -> None:
        known = [child_id for child_id, child in run.model.family.children.items() if child.status != "held"]
        if known:
            self._end(run, self.rng.choice(known))

    def _end(self, run: LiveRun, child_id: str) -> None:
        model, status = run.model, self.rng.choice(("completed", "completed", "failed"))
        is_open = model.family.children[child_id].is_open
        reply = self.store.verb(
            "child_ended", model.run_id, child=child_id, status=status, event=event("End").to_bytes()
        )
        self.note(f"{model.run_id} child {child_id} has ended: {reply[0]!r}")
        if model.status != "running":
            agree("an end for a run that has ended", reply[0], b"closed")
        elif not is_open:
            agree("a child that ends again", reply[0], b"known")
        else:
            agree("the end of a child", reply[0], b"told")
            model.family.ended(child_id, status)
            model.apply([])
            applied = self.store.applied(model.run_id, reply[1])
            agree("the end with that of a child", applied.ended, model.status != "running")
            self.heard(run, applied, "the end of a child")

    def heard(self, run: LiveRun, reply: object, what: str) -> None:
        if isinstance(reply, Applied):
            agree(f"children to be started after {what}", list(reply.starts), run.model.family.to_be_started())
        super().heard(run, reply, what)

    def move(self, run: LiveRun) -> None:
        if not (run.model.family.has_end and self._end_one(run)):
            super().move(run)

    def give_up(self, run: LiveRun) -> None:
        if not self._end_one(run):
            super().give_up(run)

    def _end_one(self, run: LiveRun) -> bool:
        open_ones = [child_id for child_id, child in run.model.family.children.items() if child.is_asked_for]
        if open_ones:
            self._end(run, open_ones[0])
        return bool(open_ones)

    def cancel_step(self, run: LiveRun) -> None:
        """Cancel a work item in any state, sometimes with another event in its place."""
        model = run.model
        free = [item for item in model.items.values() if item.work_id not in model.staged and item.state != "failed"]
        if model.status != "running" or not free:
            return
        item, instead = self.rng.choice(free), random_event(self.rng) if self.rng.random() < 0.4 else None
        if isinstance(self.busy, Work) and self.busy.work_id == item.work_id:
            return
        self.note(f"{model.run_id} cancel {item.step.name} {item.work_id} which is {item.state}")
        selection = Selection(work_ids=frozenset({item.work_id}))
        # In the store's order: one event may resume several waiters, in any order.
        around = model.surroundings if instead is None else looked(self.store, model, [instead])
        about = (self.store, model.run_id, model.plan, selection, LIMITS)
        count, changes = self.store.call(cancel_work, *about, instead=instead)
        agree("cancelled work", count, 1)
        for work in [work for work in run.works if work.token == item.token]:
            self.let_go(run, work)
            run.works.remove(work)
            run.stale = [*run.stale[-5:], work]
        if item.state == "running":
            held = Held(model.run_id, item.work_id, str(item.claim_id)).member
            self.holding(str(item.owner), self.shard(run)).discard(held)
        commands: list[Command] = []
        if instead is not None:
            origin, emit_id = Origin(model.run_id, item.work_id, Scope(item.scope)), derive_id(item.work_id, "instead")
            commands = route(model.plan, instead, origin, emit_id, around, LIMITS)
        model.cancel(item)
        model.apply(commands)
        for change in changes:
            self.heard(run, change, "cancelling")
