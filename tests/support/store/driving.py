"""Driving runs without Celery: claim, pretend to execute, decide, commit."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack

from support.store.blocking import BlockingStore as Store
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.engine.leases import Leases
from umbel.orchestration.model.decide import CHUNK, Limits, decide, decide_start, route
from umbel.orchestration.model.envelope import FAILED, START, STEP_FAILED, STOP, Envelope, ending
from umbel.orchestration.model.plan import Plan, StepPlan
from umbel.orchestration.model.suspicion import ONE_SUSPECT, Room
from umbel.orchestration.model.waiters import Surroundings, Waiter
from umbel.orchestration.model.work_item import Failed, Origin, Outcome, Returned, Scope, Suspended, Work, derive_id
from umbel.orchestration.store.record import WorkRecord, decode
from umbel.orchestration.store.replies import Applied, Dispatch, Refusal
from umbel.orchestration.store.scripts import pack, record_fields, unpack

LIMITS = Limits()
Body = Callable[[Work], Outcome]


def event(name: str, *parents: str, **value: Any) -> Envelope:
    """An event as data."""
    return Envelope(name, parents, json.dumps(value).encode())


def stop(result: Any = None) -> Returned:
    """Return the outcome that ends a run."""
    return Returned(event(STOP, result=result))


def step(name: str, *accepts: str, **more: Any) -> StepPlan:
    """Return a step of workflow `W`."""
    return StepPlan(name=name, task=f"W.{name}", accepts=accepts, **more)


def plan_of(*steps: StepPlan) -> Plan:
    """Return a workflow `W` with these steps."""
    return Plan(workflow="W", start_event=START, stop_events=(STOP,), steps=steps)


def failed(delay_seconds: float | None = None, text: str = "broken") -> Failed:
    """Return a failed attempt; without a delay it is final."""
    return Failed(
        error=json.dumps({"exception_message": text}).encode(),
        retry_delay_seconds=delay_seconds,
        failed_event=event(STEP_FAILED, message=text),
        ending=ending(FAILED, message=text),
    )


def waiting(work: Work, name: str = "w", type_: str = "Answer", *, timeout_seconds: float | None = None) -> Suspended:
    """Return the outcome of a step that waits for an event of `type_`."""
    return Suspended(Waiter(work.work_id, name, work.step, type_, {}), None, timeout_seconds)


def work_on(step_name: str, *, scope: str = "", recoveries: dict[str, int] | None = None, **more: Any) -> Work:
    """Return a claimed work item that never was in Redis, for pure decisions."""
    blank = Work(
        run_id="run",
        work_id="item",
        step=step_name,
        token="1-claim",
        claim_id="claim",
        owner="owner",
        slot=0,
        scope=Scope(scope),
        recoveries=recoveries or {},
        event_name="A",
        failures=0,
        losses=0,
        charged_losses=0,
        resumptions=0,
        suspicion=0,
        late=False,
        dispatches=1,
        bound=(),
        scope_id=None,
        members=None,
        answers={},
        first_attempt_at=0,
        claimed_at=0,
        last_error=None,
        last_failed_at=None,
        sent_early=False,
        taken=(),
        segments={},
        plan_digest="",
        workflow="W",
        state_id="run",
        created_at=0,
        options="",
        version=0,
    )
    return replace(blank, **more)


class DrivenRun:
    """One run, with its dispatches in a list instead of a broker."""

    def __init__(self, store: Store, plan: Plan, run_id: str | None = None) -> None:
        self.store, self.plan = store, plan
        self.leases = store.over(Leases)
        self.run_id = run_id or new_id()
        self.keys = store.locate(self.run_id)
        self.dispatches: deque[Dispatch] = deque()

    def start(self, first: Envelope | None = None, *, timeout_seconds: float | None = None) -> DrivenRun:
        """Start it with an event, by default an empty start event."""
        commands = decide_start(self.plan, self.run_id, first or event(START), LIMITS)
        reply = self.store.start(self.run_id, self.plan, commands, nonce="n", timeout_seconds=timeout_seconds)
        self.heard(reply)
        return self

    def heard(self, reply: object) -> Applied:
        """Record the dispatches of an applied verb."""
        assert isinstance(reply, Applied), reply
        self.dispatches.extend(reply.dispatches)
        return reply

    def dispatch(self, step_name: str) -> Dispatch:
        """Remove the oldest dispatch of a step from the list and return it."""
        found = next((dispatch for dispatch in self.dispatches if dispatch.step == step_name), None)
        assert found is not None, f"no dispatch for {step_name}: {[dispatch.step for dispatch in self.dispatches]}"
        self.dispatches.remove(found)
        return found

    def ask(
        self, dispatch: Dispatch, *, claim_id: str | None = None, owner: str = "o1", room: Room = ONE_SUSPECT
    ) -> Work | Refusal:
        """Claim the work of a dispatch."""
        return self.store.claim(
            self.run_id,
            dispatch.work_id,
            dispatch.dispatch_no,
            claim_id=claim_id or new_id(),
            owner=owner,
            room=room,
        )

    def claim(self, step_name: str, *, owner: str = "o1", claim_id: str | None = None) -> Work:
        """Claim the next dispatch of a step."""
        work = self.ask(self.dispatch(step_name), owner=owner, claim_id=claim_id)
        assert isinstance(work, Work), work
        return work

    def commit(self, work: Work, outcome: Outcome, *, batches: int = 0, **more: Any) -> Applied:
        """Decide and commit; the dispatches are recorded."""
        return self.heard(self.try_commit(work, outcome, batches=batches, **more))

    def try_commit(self, work: Work, outcome: Outcome, *, batches: int = 0, **more: Any) -> Applied | Refusal:
        """Decide on the current surroundings and commit."""
        around = self.store.surroundings(self.run_id)
        decision = decide(self.plan, work, outcome, around, LIMITS)
        if decision.staged:
            refused = self.store.stage(work, decision, CHUNK)
            if refused is not None:
                return refused
        return self.store.commit(work, self.plan, decision, surroundings=around, batches=batches, entry={}, **more)

    def send(self, what: Envelope, *, send_id: str | None = None) -> Applied | Refusal:
        """Send an event from outside."""
        send_id = send_id or new_id()
        around = self.store.surroundings(self.run_id)
        origin = Origin(self.run_id, "outside")
        commands = route(self.plan, what, origin, derive_id(self.run_id, send_id), around, LIMITS)
        reply = self.store.send(self.run_id, send_id, commands, surroundings=around)
        if isinstance(reply, Applied):
            self.dispatches.extend(reply.dispatches)
        return reply

    def flush(self, work: Work, batch: int, *sent: tuple[str, Envelope], publishes: Any = ()) -> Applied | Refusal:
        """Flush (identity, event) pairs early, as one burst."""
        around = self.store.surroundings(self.run_id)
        sends = []
        for identity, what in sent:
            origin = Origin(self.run_id, work.work_id, recoveries=work.recoveries)
            sends.append((identity, route(self.plan, what, origin, identity, around, LIMITS)))
            around = around.after(what)
        reply = self.store.flush(work, self.plan, batch=batch, surroundings=around, publishes=publishes, sends=sends)
        if isinstance(reply, Applied):
            self.dispatches.extend(reply.dispatches)
        return reply

    def play(self, bodies: dict[str, Body]) -> int:
        """Claim and commit until there are no dispatches; returns how many steps were executed."""
        executed = 0
        while self.dispatches:
            work = self.ask(self.dispatches.popleft())
            if isinstance(work, Work):
                self.commit(work, bodies[work.step](work))
                executed += 1
        return executed

    # -- inspection ------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """The run's status."""
        return self.store.run(self.run_id).status

    @property
    def result(self) -> Any:
        """The result of its StopEvent."""
        finished = self.store.run(self.run_id).ending
        assert finished is not None
        return finished.value()["result"]

    def record(self, work_id: str) -> WorkRecord:
        """Return a work record from Redis; an empty one if there is none."""
        raw = self.store.client.hget(self.keys["work"], work_id)
        return WorkRecord() if raw is None else decode(raw)

    def put_back(self, work_id: str, instant: str, milliseconds: int) -> None:
        """Shift an instant of a work record into the past."""
        stored = unpack(self.store.client.hget(self.keys["work"], work_id))
        stored[record_fields()[instant]] -= milliseconds
        self.store.client.hset(self.keys["work"], work_id, pack(stored))

    def content(self, name: str) -> Any:
        """Return a key's content by the key's logical name."""
        return content_of(self.store.client, self.keys[name])

    def make_due(self, member: str) -> None:
        """Move a timer into the past. `member` has no run id: `retry|<work id>`."""
        kind, _, rest = member.partition("|")
        full = f"{kind}|{self.run_id}" + (f"|{rest}" if rest else "")
        assert self.store.client.zadd(self.keys["timers"], {full: 1}, xx=True, ch=True) == 1, full

    def wake(self, kind: str, work_id: str, waiter_id: str = "") -> Applied | None:
        """Settle a timer of a work item, whether due or not."""
        member = "|".join(part for part in (kind, self.run_id, work_id, waiter_id) if part)
        applied = self.leases.wake(self.run_id, member, kind, work_id, waiter_id)
        if applied is not None:
            self.dispatches.extend(applied.dispatches)
        return applied


def content_of(client: Any, key: str) -> Any:
    """Return the content of a key of any type, in a comparable form."""
    kind = client.type(key)
    if kind == b"hash":
        return dict(sorted(client.hgetall(key).items()))
    if kind == b"zset":
        return sorted(client.zrange(key, 0, -1, withscores=True))
    if kind == b"set":
        return sorted(client.smembers(key))
    if kind == b"list":
        return client.lrange(key, 0, -1)
    if kind == b"stream":
        return client.xrange(key)
    return client.get(key) if kind == b"string" else None


def dump(client: Any, prefix: str, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every key of a deployment with its content, except those that end in one of `without`."""
    names = sorted(key.decode() for key in client.scan_iter(match=f"{prefix}:*", count=1000))
    found = {name: content_of(client, name) for name in names if not name.endswith(without or ("\0",))}
    for name, content in found.items():
        if name.endswith(":work"):  # Lua writes a map's fields in any order
            found[name] = {wid: msgpack.unpackb(record, raw=True) for wid, record in content.items()}
    return found


NOTHING = Surroundings()
