"""The one door to Redis for runs. Each method is one verb and one Lua script: all of it happens, or nothing.

*Promise.* Every verb may be repeated with equal arguments and changes nothing the second time; that is why an outage is
answered by asking again (`connection.persist`). A crash after a verb leaves at worst a dispatch that was not rung,
which the ring index remembers. What is where: `keys.py`; the scripts: `lua/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar, cast

from ..model.commands import Command, EndStatus
from ..model.decide import Decision
from ..model.envelope import Envelope
from ..model.errors import RunNotFound
from ..model.plan import Plan
from ..model.suspicion import NO_SUSPECTS, Room
from ..model.work_item import Work
from .asks import ScriptCall
from .blocking_reads import BlockingReads
from .keys import RunKeys, state_id_of
from .replies import (
    STUCK,
    Applied,
    CarryOn,
    Dispatch,
    Follows,
    Refusal,
    claimed_work,
    commit_entry,
    continued_work,
    not_found,
    staged_item,
    touched_keys,
)
from .scripts import Script, evaluate, load, pack, unpack

T = TypeVar("T")

_STUCK = STUCK.to_bytes()


@lru_cache(2048)
def _fixed_keys(keys: RunKeys, names: tuple[str, ...]) -> tuple[str, ...]:
    """Of a run that goes on in one process the same are asked for again and again."""
    return tuple(keys[name] for name in names)


def _as_is(reply: Any) -> list[Any]:
    return cast(list[Any], reply)


class BlockingStore(BlockingReads):
    """Runs in Redis: the verbs. What only reads is inherited."""

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        verb: str,
        run_id: str,
        names: dict[str, str] | None = None,
        /,
        *,
        read: Callable[[Any], T],
        **args: Any,
    ) -> ScriptCall[T]:
        """One script on one run, ready to be sent.

        Args:
            verb: The Lua file.
            run_id: The run; the script's keys are built from it.
            names: Logical key of the script -> logical name with its parameter (`owner` -> `owner:w1`).
            read: Makes the reply a value.
            **args: The script's arguments; None is left out. `extra` lists dynamic keys by logical name;
                `body` is the list of commands.
        """
        script = load(verb)
        keys = self.locate(run_id)
        named = list(_fixed_keys(keys, script.keys))
        state_id = state_id_of(run_id)
        own = {"state": f"state:{state_id}", "handler": f"handler:{state_id}"}
        for name, renamed in (own | (names or {})).items():
            if name in script.positions:
                named[script.positions[name]] = keys[renamed]
        extra: dict[str, str] = args.pop("extra", {})
        if extra:
            args["x"] = list(extra)
            named.extend(extra.values())
        if "scopes" in script.keys:
            args["stuck"] = _STUCK
        args |= self._limits
        args["run"] = run_id
        body = args.pop("body", None)
        blob = [pack({name: value for name, value in args.items() if value is not None})]
        if body is not None:
            blob.append(pack(body))
        return ScriptCall(f"{verb} run {run_id!r}", script, named, blob, read)

    def do(self, ask: ScriptCall[T]) -> T:
        """Send an ask, again and again until Redis answers.

        Raises:
            StoreUnavailable: No answer within the patience.
        """
        reply = self.read(ask.what, lambda: self.evaluate(ask.script, ask.keys, ask.args))
        return ask.read(reply)

    def verb(self, verb: str, run_id: str, names: dict[str, str] | None = None, /, **args: Any) -> list[Any]:
        """Evaluate one script on one run, asking again until Redis answers; arguments as in `ask`."""
        return self.do(self.ask(verb, run_id, names, read=_as_is, **args))

    def evaluate(self, script: Script, keys: Sequence[str], args: Sequence[bytes]) -> Any:
        """Send one script to Redis. Every verb passes here, which lets a test watch or alter what is sent."""
        return evaluate(self.client, script, keys, args)

    @cached_property
    def _limits(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "redispatch": round(settings.redispatch_seconds * 1000),
            "smax": settings.stream_max_events,
            "jmax": settings.journal_max_entries,
            "keep": round(settings.retention_seconds * 1000),
            "full": settings.history == "full" or None,
            "state": True,
        }

    @cached_property
    def _lease(self) -> int:
        return round(self.settings.lease_seconds * 1000)

    def applied(self, run_id: str, body: bytes) -> Applied:
        answer = unpack(body)
        dispatches = answer.get("dispatches") or ()
        dispatches = tuple(Dispatch(run_id, b["w"], b["d"], b["s"], b["q"], b["p"]) for b in dispatches)
        return Applied(dispatches, bool(answer.get("ended")), answer.get("leaving"))

    def shard_verb(self, verb: str, shard: int, names: dict[str, str], /, **args: Any) -> list[Any]:
        """Evaluate one script on what a shard has beside its runs; `names` as in `verb`, None is left out."""
        script = load(verb)
        keys = [self.keys.in_shard(shard, names.get(key, key)) for key in script.keys]
        blob = [pack({name: value for name, value in args.items() if value is not None})]
        return cast(list[Any], self.read(verb, lambda: self.evaluate(script, keys, blob)))

    # -- a run's life ----------------------------------------------------------------------------------------------

    def start(
        self,
        run_id: str,
        plan: Plan,
        commands: Sequence[Command],
        *,
        nonce: str,
        timeout_seconds: float | None,
        options: dict[str, Any] | None = None,
        parent: str | None = None,
        num_concurrent_runs: int | None = None,
        restored: Sequence[str] = (),
        push: Mapping[str, tuple[str, str]] | None = None,
        follows: Follows | None = None,
    ) -> Applied | Refusal:
        """Begin a run. Asking again with the same nonce gives the same answer; `EXISTS` when the id is taken.

        With `follows` it becomes the run of its handler by the same script, unless that is at another run than was
        thought (`MOVED`) or its run has not ended (`RUNNING`).
        With `num_concurrent_runs` it waits until `RunQuota` have let it begin.
        `restored` are the logical names of the dynamic keys that `snapshots.begin_from` has prepared. `push` gives for
        work ids the Redis list and message of their dispatches, which go out with the same script.
        """
        meta = ["workflow", plan.workflow, "plan", plan.digest, "state_id", state_id_of(run_id)]
        meta += ["options", json.dumps(options or {}, separators=(",", ":"))]
        if parent is not None:
            meta += ["parent", parent]
        before = {"before": self.locate(follows.before)["run"]} if follows is not None and follows.before else {}
        status, body = self.verb(
            "start",
            run_id,
            {"plan": f"plan:{plan.digest}"},
            nonce=nonce,
            plan=plan.to_json(),
            meta=meta,
            body=[command.wire() for command in commands],
            timeout=None if timeout_seconds is None else round(timeout_seconds * 1000),
            limit=num_concurrent_runs,
            push=dict(push) if push else None,
            handler=None if follows is None else follows.at,
            before=bool(before) or None,
            extra={name: self.locate(run_id)[name] for name in restored}
            | {key: key for key, _ in (push or {}).values()}
            | before,
        )
        return self.applied(run_id, body) if status == b"started" else Refusal(status.decode())

    def claim(
        self,
        run_id: str,
        work_id: str,
        dispatch_no: int,
        *,
        claim_id: str,
        owner: str,
        room: Room = NO_SUSPECTS,
    ) -> Work | Refusal:
        """Take the right to execute one work item, or learn why not.

        Of all who hold a dispatch exactly one gets the `Work`; the attempt is counted before this returns. A claim
        whose answer was lost is asked again with the same `claim_id`. A suspect is refused (`SUSPECT`) to whom has no
        `room` for it.
        """
        return self.do(self.claiming(run_id, work_id, dispatch_no, claim_id=claim_id, owner=owner, room=room))

    def claiming(
        self, run_id: str, work_id: str, dispatch_no: int, *, claim_id: str, owner: str, room: Room = NO_SUSPECTS
    ) -> ScriptCall[Work | Refusal]:
        """`claim`, to be sent."""

        def read(reply: Any) -> Work | Refusal:
            if reply[0] != b"claimed":
                return Refusal(reply[0].decode())
            return claimed_work(run_id, work_id, unpack(reply[1]), unpack(reply[2]), reply[3:])

        return self.ask(
            "claim",
            run_id,
            {"owner": f"owner:{owner}"},
            read=read,
            w=work_id,
            d=dispatch_no,
            c=claim_id,
            owner=owner,
            suspicion=room.suspicion,
            alone=room.alone or None,
            lease=self._lease,
            member=f"{run_id}|{work_id}|{claim_id}",
            grace=self._lease,
        )

    def stage(self, work: Work, decision: Decision, chunk: int) -> Refusal | None:
        """Bring a large fan-out to Redis in chunks. Invisible until the commit under the same token; repeatable."""
        for step, items in decision.staged.items():
            delivers = items[0].deliver is not None
            segment = f"{work.token}:{step}" if delivers else f"members:{decision.scope_id}:{step}"
            chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
            while chunks:
                reply = self.verb(
                    "stage",
                    work.run_id,
                    w=work.work_id,
                    t=work.token,
                    seg=segment,
                    size=len(items),
                    items=[staged_item(item) for item in chunks[0]],
                    extra=self._members(work, segment),
                )
                if reply[0] == b"resized":  # decided anew on other waiters, this attempt brings another number
                    self._clear(work, segment, reply[1], chunk)
                elif reply[0] == b"staged":
                    del chunks[0]
                else:
                    return Refusal(reply[0].decode())
        return None

    def unstage(self, work: Work, chunk: int) -> None:
        """Clear what earlier attempts had staged and never committed. Call it before anything else is staged."""
        for segment, size in work.segments.items():
            self._clear(work, segment, size, chunk)

    def _clear(self, work: Work, segment: str, size: int, chunk: int) -> None:
        members = self._members(work, segment)
        for start in range(1, 2 if members else size + 1, chunk):
            self.verb(
                "unstage",
                work.run_id,
                w=work.work_id,
                t=work.token,
                seg=segment,
                first=start,
                to=min(start + chunk - 1, size),
                last=bool(members) or start + chunk > size or None,
                extra=members,
            )

    def _members(self, work: Work, segment: str) -> dict[str, str]:
        return {segment: self.locate(work.run_id)[segment]} if segment.startswith("members:") else {}

    def commit(
        self,
        work: Work,
        plan: Plan,
        decision: Decision,
        *,
        version: int,
        batches: int,
        entry: dict[str, Any],
        exchanges: int = 0,
        taken: Iterable[str] = (),
        carry_on: CarryOn | None = None,
    ) -> Applied | Refusal:
        """Record the outcome of a claimed work item and everything it did, under its token, at once.

        Args:
            work: What was claimed.
            plan: The run's plan.
            decision: What to apply.
            version: Version of the surroundings the decision was made with; `CHANGED` when it has moved.
            batches: How many early flushes must have arrived; `MISSING` when one did not.
            exchanges: How many state writes and collect_events calls of this attempt Redis has answered; `MISSING`
                when it has forgotten one, because it was set back.
            entry: The journal's summary of this attempt.
            taken: Logical names of completed collect_events sets to drop with the work item.
            carry_on: The caller would go on with a work item that this makes ready. It is claimed by the same script:
                a lost reply orphans nothing, because asking again gives the same work.
        """
        ask = self.committing(
            work,
            plan,
            decision,
            version=version,
            batches=batches,
            entry=entry,
            exchanges=exchanges,
            taken=taken,
            carry_on=carry_on,
        )
        return self.do(ask)

    def committing(
        self,
        work: Work,
        plan: Plan,
        decision: Decision,
        *,
        version: int,
        batches: int,
        entry: dict[str, Any],
        exchanges: int = 0,
        taken: Iterable[str] = (),
        carry_on: CarryOn | None = None,
    ) -> ScriptCall[Applied | Refusal]:
        """`commit`, to be sent."""

        def read(reply: Any) -> Applied | Refusal:
            status, *rest = reply
            if status != b"committed":
                return Refusal(status.decode())
            applied = self.applied(work.run_id, rest[0])
            return applied if len(rest) == 1 else replace(applied, continued=continued_work(work, rest[1:]))

        keys = self.locate(work.run_id)
        return self.ask(
            "commit",
            work.run_id,
            {"state": f"state:{work.state_id}", "owner": f"owner:{work.owner}", "answer": f"answer:{work.work_id}"},
            read=read,
            w=work.work_id,
            t=work.token,
            wf=work.workflow,
            member=work.member,
            owner=work.owner,
            batches=batches,
            xs=exchanges or None,
            wv=version if decision.sensitive else None,
            body=[command.wire() for command in decision.commands],
            entry=commit_entry(work, decision) | entry,
            **({} if carry_on is None else {"carry": carry_on.claim_id, "grace": self._lease}),
            deny=dict.fromkeys(carry_on.not_steps, 1) if carry_on is not None and carry_on.not_steps else None,
            extra=touched_keys(keys, plan, work, decision, (*work.taken, *taken)),
        )

    def flush(
        self,
        work: Work,
        plan: Plan,
        *,
        batch: int,
        version: int,
        publishes: Sequence[Command],
        sends: Sequence[tuple[str, Sequence[Command]]],
    ) -> Applied | Refusal:
        """Apply one burst of a running step: published events, then sent ones. Applied once per batch number."""
        status, *rest = self.verb(
            "flush",
            work.run_id,
            {"state": f"state:{work.state_id}", "sent": f"sent:{work.work_id}"},
            w=work.work_id,
            t=work.token,
            batch=batch,
            wv=version if sends else None,
            publishes=[command.wire() for command in publishes],
            body=[{"id": emit_id, "commands": [c.wire() for c in commands]} for emit_id, commands in sends],
        )
        return self.applied(work.run_id, rest[0]) if status == b"flushed" else Refusal(status.decode())

    def send(self, run_id: str, send_id: str, commands: Sequence[Command], *, version: int) -> Applied | Refusal:
        """Apply an event from outside the run; equal `send_id`s within an hour are one send."""
        status, *rest = self.verb(
            "send",
            run_id,
            id=send_id,
            wv=version,
            body=[command.wire() for command in commands],
        )
        return self.applied(run_id, rest[0]) if status == b"sent" else Refusal(status.decode())

    def finish(self, run_id: str, status: EndStatus, event: Envelope, *, if_due: bool = False) -> bool:
        """End a run from outside its steps. True when this call ended it; the first end wins.

        Raises:
            RunNotFound: No such run.
        """
        reply = self.verb(
            "finish",
            run_id,
            status=status,
            event=event.to_bytes(),
            timer=if_due or None,
        )
        if reply[0] == b"unknown" and not if_due:
            raise RunNotFound(not_found(run_id))
        return bool(reply[0] == b"ended")

    def revive(self, run_id: str, *, timeout_seconds: float | None) -> Applied | str:
        """Take up an ended run again; its unfinished work items anew. Else the reason: its status, or `nothing`."""
        keys = self.locate(run_id)
        dynamic = self.read("list keys", lambda: self.client.smembers(keys["extra"]))
        status, *rest = self.verb(
            "revive",
            run_id,
            timeout=None if timeout_seconds is None else round(timeout_seconds * 1000),
            extra={name.decode(): name.decode() for name in dynamic},
        )
        return self.applied(run_id, rest[0]) if status == b"revived" else cast(str, status.decode())

    def purge(self, run_id: str) -> bool:
        """Forget an ended run, and its handler and state where the handler is at it; False while it goes on."""
        keys = self.locate(run_id)
        dynamic = self.read("list keys", lambda: self.client.smembers(keys["extra"]))
        reply = self.verb("purge", run_id, extra={name.decode(): name.decode() for name in dynamic})
        return bool(reply[0] != b"running")

    def collect(
        self,
        work: Work,
        *,
        buffer: str,
        call: str,
        event: Envelope,
        expected: Sequence[tuple[str, int, str]],
        taken: str,
    ) -> Sequence[Envelope] | Refusal | None:
        """Add an event to a collect_events buffer; the set when this call completes it, None while it waits.

        Args:
            work: The collecting work item.
            buffer: The buffer as people call it: step and buffer id.
            call: Name of this call: buffer, work item and n-th call. A repeated attempt gets its old answer.
            event: The member.
            expected: (event type, how many, logical buffer key) per type, in order of first mention.
            taken: Logical name of the list a completed set is moved to.
        """
        keys = self.locate(work.run_id)
        status = self.verb(
            "collect",
            work.run_id,
            w=work.work_id,
            t=work.token,
            buffer=buffer,
            call=call,
            type=event.type,
            d=event.to_bytes(),
            types=[{"name": name, "n": n, "key": key} for name, n, key in expected],
            taken=taken,
            extra={name: keys[name] for name in (*(key for _, _, key in expected), taken)},
        )[0].decode()
        if status == "waiting":
            return None
        if status != "complete":
            return Refusal(status)
        raw = self.read("read a collected set", lambda: self.client.lrange(keys[taken], 0, -1))
        return [Envelope.from_bytes(item) for item in raw]
