"""The expected state of a run, in plain Python: the reference with which the Lua scripts are compared.

Nothing here is optimized, on purpose. Counts that Redis maintains are recomputed each time, so that a drifting count
in Redis is detected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from support.model.family import Family
from support.model.items import Ahead, FanOut, Item, innermost
from umbel.orchestration.model.commands import (
    Absorb,
    AwaitChildren,
    Command,
    Deliver,
    Done,
    Fail,
    Finish,
    Join,
    KeepEvent,
    KeepInInbox,
    KeepPlan,
    OpenScope,
    Publish,
    Resume,
    Retry,
    Spawn,
    Splice,
    Suspend,
    TakeFromInbox,
    Trace,
)
from umbel.orchestration.model.decide import Decision
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.model.waiters import InboxEvent, Surroundings, Waiter


class ModelRun:
    """One run, to which commands are applied one by one."""

    def __init__(self, run_id: str, plan: Plan) -> None:
        self.run_id, self.plan = run_id, plan
        self.status = "running"
        self.items: dict[str, Item] = {}
        self.queues: dict[str, deque[Item]] = {step.name: deque() for step in plan.steps}
        self.slots: dict[str, dict[int, str]] = {step.name: {} for step in plan.steps}
        self.events: dict[str, list[Any]] = {}
        self.scopes: dict[str, FanOut] = {}
        self.joins: dict[tuple[str, str], dict[str, deque[tuple[str, str]]]] = {}
        self.sets: dict[tuple[str, str], int] = {}
        self.waiters: dict[tuple[str, str], Waiter] = {}
        self.inbox: deque[InboxEvent] = deque()
        self.timers: set[str] = set()
        self.parked: set[str] = set()
        self.received: set[str] = set()
        self.remembered: dict[str, tuple[str, Any, float]] = {}  # work id -> token, reply, time
        self.went_on: dict[str, Any] = {}  # token -> the `CarryOn` of a commit whose reply was only a continuation
        self.finished: set[str] = set()
        self.staged: dict[str, Ahead] = {}  # by work id
        self.added = self.removed = self.kept = 0  # waiters added, waiters removed, events added to the inbox
        self.tokens = self.commits = self.seq = self.idle = 0
        self.dispatches: list[tuple[str, int]] = []
        self.carry: tuple[str, str, tuple[str, ...]] | None = None  # in a commit: claim id, owner, steps not taken
        self.carried: Item | None = None
        self.family = Family(self)

    # -- views -----------------------------------------------------------------------------------------------------

    @property
    def surroundings(self) -> Surroundings:
        """The surroundings as the store would read them."""
        return Surroundings(self.added, tuple(self.waiters.values()), tuple(self.inbox), self.kept)

    @property
    def version(self) -> int:
        """The number of all changes of waiters and inbox."""
        return self.added + self.removed + self.kept

    def timer(self, kind: str, *rest: str) -> str:
        """Return a timer's name."""
        return "|".join((kind, self.run_id, *rest))

    def slots_in_use(self) -> list[str]:
        """Return every slot that is in use."""
        return [f"{name}/{n}" for name, holders in self.slots.items() for n in holders]

    def in_state(self, *states: str) -> list[Item]:
        """Return the items in one of these states."""
        return [item for item in self.items.values() if item.state in states]

    def asleep(self) -> list[Item]:
        """Return the items that wait for an event."""
        return [item for item in self.in_state("suspended") if item.awaited is None and not item.is_at_end]

    def dispatched(self) -> list[tuple[str, int]]:
        """Return the dispatches since the last call."""
        found, self.dispatches = self.dispatches, []
        return found

    # -- slots -----------------------------------------------------------------------------------------------------

    def dispatch(self, item: Item) -> None:
        if self.carry and self.carried is None and not item.suspicion and item.step.name not in self.carry[2]:
            item.dispatches += 1
            self.claimed(item, *self.carry[:2])
            self.carried = item
            return
        item.state = "ready"
        item.dispatches += 1
        item.let_go()
        self.dispatches.append((item.work_id, item.dispatches))

    def claimed(self, item: Item, claim_id: str, owner: str) -> None:
        self.tokens += 1
        self.seq += 1
        item.state, item.token, item.claim_id, item.owner = "running", f"{self.tokens}-{claim_id}", claim_id, owner
        item.batches = 0
        if item.step.timeout_seconds is not None:
            self.timers.add(self.timer("deadline", item.work_id))

    def place(self, item: Item, *, silent: bool = False) -> None:
        used = self.slots[item.step.name]
        free = next((n for n in range(item.step.num_workers) if n not in used), None)
        if free is None:
            item.state, item.slot = "queued", None
            self.queues[item.step.name].append(item)
            self.seq += not silent
        else:
            used[free] = item.work_id
            item.slot = free
            self.dispatch(item)

    def vacate(self, item: Item) -> None:
        assert item.slot is not None
        assert self.slots[item.step.name].pop(item.slot) == item.work_id
        item.slot = None
        queue = self.queues[item.step.name]
        while queue:
            following = queue.popleft()
            if not following.is_cancelled:
                self.place(following)
                return

    def deliver(self, item: Item, *, silent: bool = False) -> None:
        assert item.work_id not in self.items, f"delivered twice: {item.work_id}"
        assert item.work_id not in self.finished, f"delivered again: {item.work_id}"
        self.items[item.work_id] = item
        self.place(item, silent=silent)

    # -- events and fan-outs ---------------------------------------------------------------------------------------

    def drop_event(self, event_id: str) -> None:
        self.events[event_id][1] -= 1
        if self.events[event_id][1] == 0:
            del self.events[event_id]

    def fire(self, scope_id: str, step_name: str, size: int) -> None:
        scope = self.scopes[scope_id]
        assert step_name not in scope.fired, f"fired twice: {step_name} of {scope_id}"
        scope.fired.add(step_name)
        work_id, step = next(join for join in scope.joins if join[1].name == step_name)
        members = scope.members.get(step_name, [])[:size]
        self.deliver(Item(work_id, step, scope.parent, [], [scope.recoveries], (scope_id, members)))

    def settle(self) -> None:
        """Close scopes that have nothing open inside."""
        while True:
            inside = {innermost(item.scope) for item in self.items.values()}
            inside |= {innermost(scope.parent) for scope in self.scopes.values()}
            empty = next((scope_id for scope_id in self.scopes if scope_id not in inside), None)
            if empty is None:
                return
            scope = self.scopes[empty]
            for _, step in scope.joins:
                if step.name not in scope.fired:
                    self.fire(empty, step.name, len(scope.members.get(step.name, [])))
            for key in [key for key in self.joins if innermost(key[1]) == empty]:
                for buffer in self.joins.pop(key).values():
                    for event_id, _ in buffer:
                        self.drop_event(event_id)
                self.sets.pop(key, None)
            del self.scopes[empty]

    # -- commands --------------------------------------------------------------------------------------------------

    def apply(self, commands: Iterable[Command], me: Item | None = None, decision: Decision | None = None) -> bool:
        """Apply commands in order; returns True when the run has ended."""
        for command in commands:
            self._one(command, me, decision)
            if self.status != "running":
                return True
        self.settle()
        if self.family.has_end and not self.family.keeps_run:
            self.finish("completed")
            return True
        assert self.items or not self.scopes, "a fan-out is open with nothing inside"
        idle = int(len(self.items) == len(self.asleep()))
        self.seq += idle and not self.idle
        self.idle = idle
        return False

    def _one(self, command: Command, me: Item | None, decision: Decision | None) -> None:
        match command:
            case Publish() | Trace():
                self.seq += 1
            case KeepEvent():
                self.events[command.event_id] = [command.event, command.uses]
            case Deliver():
                self.deliver(_item(command))
            case OpenScope():
                staged = decision.staged if decision else {}
                members = {n: [i.event for i in items] for n, items in staged.items() if items[0].member_of}
                scope = FanOut(command.parent, list(command.joins), command.recoveries, members)
                self.scopes[command.scope_id] = scope
                for _, step in scope.joins:
                    if step.take is not None and len(members.get(step.name, ())) >= step.take:
                        self.fire(command.scope_id, step.name, step.take)
            case Splice():
                assert decision is not None
                for staged_item in decision.staged[command.step.name]:
                    assert staged_item.deliver is not None
                    self.events[staged_item.event_id] = self.events.get(
                        staged_item.event_id, [staged_item.event, staged_item.uses]
                    )
                    self.deliver(_item(staged_item.deliver), silent=True)
            case Absorb():
                scope = self.scopes[command.scope_id]
                if command.step not in scope.fired:
                    gathered = scope.members.setdefault(command.step, [])
                    gathered.append(command.event)
                    take = self.plan.by_name[command.step].take
                    if take is not None and len(gathered) >= take:
                        self.fire(command.scope_id, command.step, take)
            case Join():
                self._join(command)
            case KeepInInbox():
                self.inbox.append(InboxEvent(command.event_id, command.event))
                while len(self.inbox) > command.limit:
                    self.inbox.popleft()
                self.kept += 1
            case TakeFromInbox():
                self.inbox = deque(kept for kept in self.inbox if kept.event_id != command.event_id)
            case Resume():
                self._resume(command)
            case Finish():
                if not self.family.hold_end(command.status, me):
                    self.finish(command.status)
            case _:
                assert me is not None
                self._own(command, me)

    def _join(self, command: Join) -> None:
        key = (command.step.name, command.scope)
        buffers = self.joins.setdefault(key, {})
        buffers.setdefault(command.slot, deque()).append((command.event_id, command.recoveries))
        needed = {name: command.step.accepts.count(name) for name in command.step.accepts}
        if any(len(buffers.get(name, ())) < n for name, n in needed.items()):
            return
        members = [buffers[name].popleft() for name in command.step.accepts]
        self.sets[key] = self.sets.get(key, 0) + 1
        ids, spent = [m[0] for m in members], [m[1] for m in members]
        self.deliver(Item(f"{command.work_stem}.{self.sets[key]}", command.step, command.scope, ids, spent))

    def _resume(self, command: Resume) -> None:
        if self.waiters.pop((command.work_id, command.waiter_id), None) is None:
            if command.event_id is not None:
                self.drop_event(command.event_id)
            return
        self.removed += 1
        self.timers.discard(self.timer("waiter", command.work_id, command.waiter_id))
        item = self.items[command.work_id]
        item.answers[command.waiter_id] = command.event_id
        item.resumptions += 1
        self.place(item)

    def _own(self, command: Command, me: Item) -> None:
        """Apply a command that concerns the committing item."""
        if isinstance(command, Done):
            self._done(me)
        elif isinstance(command, Retry):
            me.failures += 1
            me.late = False
            if command.delay_ms <= 0:
                self.dispatch(me)
            else:
                self.vacate(me)
                me.state = "delayed"
                me.let_go()
                self.timers.add(self.timer("retry", me.work_id))
        elif isinstance(command, Suspend):
            self.vacate(me)
            me.state = "suspended"
            me.let_go()
            self.waiters[me.work_id, command.waiter_id] = Waiter.from_bytes(
                f"{me.work_id}|{command.waiter_id}", command.waiter
            )
            self.added += 1
            me.waits_until = None if command.timeout_ms is None else command.waiter_id
            if me.waits_until is not None:
                self.timers.add(self.timer("waiter", me.work_id, me.waits_until))
        elif isinstance(command, Spawn):
            self.family.spawn(command, me)
        elif isinstance(command, AwaitChildren):
            self.family.wait(command, me)
        elif not isinstance(command, KeepPlan):
            assert isinstance(command, Fail)
            me.failures += 1
            me.state = "failed"
            me.let_go()

    def _done(self, me: Item) -> None:
        for event_id in (*me.event_ids, *(e for e in me.answers.values() if e is not None)):
            self.drop_event(event_id)
        del self.items[me.work_id]
        self.finished.add(me.work_id)
        if me.slot is not None:
            self.vacate(me)

    def cancel(self, item: Item) -> None:
        """Cancel a work item from outside."""
        self.seq += 1
        if item.state == "queued":
            item.is_cancelled = True
        else:
            self.seq += 1
        for kind in ("deadline", "retry"):
            self.timers.discard(self.timer(kind, item.work_id))
        for work_id, waiter_id in [key for key in self.waiters if key[0] == item.work_id]:
            del self.waiters[work_id, waiter_id]
            self.removed += 1
            self.timers.discard(self.timer("waiter", work_id, waiter_id))
        self.family.give_up(item.work_id)
        self._done(item)

    def finish(self, status: str) -> None:
        """End the run."""
        assert self.status == "running", "ended twice"
        self.status = status
        self.seq += 1
        self.timers.discard(self.timer("timeout"))
        if status == "completed":
            self.items.clear()
            self.received.clear()

    def revive(self) -> None:
        """Revive an ended run."""
        self.status = "running"
        self.family.revive()
        for item in sorted(self.items.values(), key=lambda item: item.work_id):
            if item.state == "suspended" and item.waits_until is not None:
                self.timers.add(self.timer("waiter", item.work_id, item.waits_until))
            if item.state in ("suspended", "queued"):
                continue
            self.timers.discard(self.timer("retry", item.work_id))
            item.failures = item.losses = item.charged = 0
            item.suspicion = 0
            item.alone = item.late = False
            if item.slot is None:
                self.place(item)
            else:
                self.dispatch(item)


def _item(command: Deliver) -> Item:
    return Item(command.work_id, command.step, command.scope, [command.event_id], [command.recoveries])
