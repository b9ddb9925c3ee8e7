"""The verbs: the only access to runs in Redis. Each is one method and one Lua script, applied completely or not at all.

*Promise.* Every verb may be repeated with equal arguments and changes nothing the second time, so verbs are retried
during an outage (`pipeline.Connection`). A crash after a verb leaves at worst a message that was not sent; the
unclaimed index compensates for that. Key names: `keys.py`; scripts: `lua/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ..connection.keys import state_id_of
from ..model.commands import Command, EndStatus, Fill, WhenBusy
from ..model.decide import Decision
from ..model.envelope import CANCELLED, Envelope, ending
from ..model.errors import RunNotFound
from ..model.plan import Plan
from ..model.suspicion import NO_SUSPECTS, Room
from ..model.waiters import Surroundings
from ..model.work_item import Work
from .calls import StoreCalls, checks, commit_entry, touched_keys
from .journal import entries
from .replies import (
    Applied,
    CarryOn,
    Refusal,
    applied,
    claimed_work,
    continued_work,
    not_found,
)
from .scripts import pack, unpack

_CANCELLED = ending(CANCELLED).to_bytes()


class Store(StoreCalls):
    """Runs in Redis: the verbs. How they are called, and reading, is inherited."""

    applied = staticmethod(applied)

    async def journal(self, run_id: str) -> list[tuple[int, str, Any]]:
        """The run's journal: (Redis time in ms, kind, data), oldest first."""
        return [(entry.at, entry.kind, entry.about) async for entry in entries(self, run_id)]

    # -- a run's life ----------------------------------------------------------------------------------------------

    async def start(
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
        when_busy: WhenBusy | None = None,
    ) -> Applied | Refusal:
        """Begin a run. A repetition with the same nonce gets the same answer; `EXISTS` if the id is taken.

        With `when_busy` it is the next run of the session that its id names. While another run of it is in progress,
        the new one waits for its turn (`queue`), ends that run (`interrupt`; `rollback` also puts the state back to
        what that run began with, or is refused if that is `FORGOTTEN`) or is refused (`RUNNING`). It is also refused if
        the session accepts no more runs (`CLOSED`), or no more waiting ones (`FULL`).
        With `num_concurrent_runs` it waits until `RunQuota` admits it.
        `restored` are the logical names of the dynamic keys that `snapshots.begin_from` has prepared. `push` maps work
        ids to the Redis list and message of their dispatches, which the same script sends.
        """
        meta = ["workflow", plan.workflow, "plan", plan.digest, "state_id", state_id_of(run_id)]
        meta += ["options", json.dumps(options or {}, separators=(",", ":"))]
        if parent is not None:
            meta += ["parent", parent]
        status, body = await self.verb(
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
            busy=when_busy,
            most=self.settings.session_max_waiting,
            fills=pack([Fill(step).wire() for step in plan.steps]) if when_busy == "queue" else None,
            cancelled=_CANCELLED if when_busy in ("interrupt", "rollback") else None,
            extra={name: self.locate(run_id)[name] for name in restored}
            | {key: key for key, _ in (push or {}).values()},
        )
        return self.applied(run_id, body) if status == b"started" else Refusal(status.decode())

    async def claim(
        self,
        run_id: str,
        work_id: str,
        dispatch_no: int,
        *,
        claim_id: str,
        owner: str,
        room: Room = NO_SUSPECTS,
    ) -> Work | Refusal:
        """Claim the right to execute one work item; returns the reason if it is refused.

        Of all processes that act on its dispatches, exactly one gets the `Work`; the attempt is counted before this
        returns. A claim whose answer was lost is repeated with the same `claim_id`. A suspect is refused (`SUSPECT`) to
        a process that has no `room` for it.
        """

        def read(reply: Any) -> Work | Refusal:
            if reply[0] != b"claimed":
                return Refusal(reply[0].decode())
            return claimed_work(run_id, work_id, unpack(reply[1]), unpack(reply[2]), reply[3:])

        call = self.script(
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
            lease=self.lease_ms,
            member=f"{run_id}|{work_id}|{claim_id}",
            grace=self.lease_ms,
        )
        return await self.send_script(call)

    async def commit(
        self,
        work: Work,
        plan: Plan,
        decision: Decision,
        *,
        surroundings: Surroundings,
        batches: int,
        entry: dict[str, Any],
        exchanges: int = 0,
        taken: Iterable[str] = (),
        state: Mapping[str, bytes] | None = None,
        carry_on: CarryOn | None = None,
    ) -> Applied | Refusal:
        """Record the outcome of a claimed work item and everything it did, under its token, atomically.

        Args:
            work: What was claimed.
            plan: The run's plan.
            decision: What to apply.
            surroundings: What the decision is based on; `CHANGED` if it would be another one now.
            batches: How many early flushes must have arrived; `MISSING` if one did not.
            exchanges: How many state writes and collect_events calls Redis has answered; `MISSING` if it has lost one.
            entry: The journal's summary of this attempt.
            taken: Logical names of completed collect_events sets to drop with the work item.
            state: Top-level keys of the state to write -> JSON.
            carry_on: The offer to continue with a work item that this makes ready; a repeated call gets the same one.
        """

        def read(reply: Any) -> Applied | Refusal:
            status, *rest = reply
            if status != b"committed":
                return Refusal(status.decode())
            applied = self.applied(work.run_id, rest[0])
            return applied if len(rest) == 1 else replace(applied, continued=continued_work(work, rest[1:]))

        keys = self.locate(work.run_id)
        call = self.script(
            "commit",
            work.run_id,
            {"state": f"state:{work.state_id}", "owner": f"owner:{work.owner}", "answer": f"answer:{work.work_id}"},
            read=read,
            w=work.work_id,
            t=work.token,
            member=work.member,
            owner=work.owner,
            batches=batches,
            xs=exchanges or None,
            **checks(surroundings, decision.commands, decision.sensitive, decision.found_nothing, own=work.work_id),
            body=decision.packed or [command.wire() for command in decision.commands],
            entry=commit_entry(work, decision) | entry,
            back=dict(state) if state else None,
            carry=None if carry_on is None else carry_on.claim_id,
            grace=None if carry_on is None else self.lease_ms,
            deny=dict.fromkeys(carry_on.not_steps, 1) if carry_on is not None and carry_on.not_steps else None,
            extra=touched_keys(keys, plan, work, decision, (*work.taken, *taken)),
        )
        return await self.send_script(call)

    async def flush(
        self,
        work: Work,
        plan: Plan,
        *,
        batch: int,
        surroundings: Surroundings,
        publishes: Sequence[Command],
        sends: Sequence[tuple[str, Sequence[Command]]],
        exchanges: int = 0,
    ) -> Applied | Refusal:
        """Apply one batch of a running step: published events, then sent ones. Applied once per batch number.

        `exchanges` as in `commit`: those before the events were sent.
        """
        status, *rest = await self.verb(
            "flush",
            work.run_id,
            {"state": f"state:{work.state_id}", "sent": f"sent:{work.work_id}"},
            w=work.work_id,
            t=work.token,
            batch=batch,
            xs=exchanges or None,
            **checks(surroundings, [c for _, commands in sends for c in commands], bool(sends)),
            publishes=[command.wire() for command in publishes],
            body=[{"id": emit_id, "commands": [c.wire() for c in commands]} for emit_id, commands in sends],
        )
        return self.applied(work.run_id, rest[0]) if status == b"flushed" else Refusal(status.decode())

    async def send(
        self, run_id: str, send_id: str, commands: Sequence[Command], *, surroundings: Surroundings
    ) -> Applied | Refusal:
        """Apply an event from outside the run; equal `send_id`s within an hour are one send."""
        body = [command.wire() for command in commands]
        status, *rest = await self.verb("send", run_id, id=send_id, **checks(surroundings, commands), body=body)
        return self.applied(run_id, rest[0]) if status == b"sent" else Refusal(status.decode())

    async def finish(self, run_id: str, status: EndStatus, event: Envelope, *, if_due: bool = False) -> Applied | None:
        """End a run from outside its steps. None when another call ended it; the first end wins.

        Raises:
            RunNotFound: No such run.
        """
        reply = await self.verb(
            "finish",
            run_id,
            status=status,
            event=event.to_bytes(),
            timer=if_due or None,
        )
        if reply[0] == b"unknown" and not if_due:
            raise RunNotFound(not_found(run_id))
        return self.applied(run_id, reply[1]) if reply[0] == b"ended" else None

    async def advance(self, run_id: str, *, look_again_at: int) -> Applied | None:
        """Begin the next run of a session whose run has ended without doing so; None while that run is in progress.

        Args:
            run_id: The session's current run.
            look_again_at: When the sweep looks at the session again, Redis time in ms.
        """
        status, *rest = await self.verb("advance", run_id, at=look_again_at)
        return self.applied(run_id, rest[0]) if status == b"advanced" else None

    async def log(self, run_id: str, at: int, lines: bytes, *, patience_seconds: float) -> None:
        """Store lines that a step has logged; does nothing if the run does not exist (any more).

        They expire with the run. They are not part of its journal: lines that a killed process has not sent are lost.

        Args:
            run_id: The run.
            at: When the first of them was logged, in ms.
            lines: See `tasks/logs/gathered.py`; the same bytes are kept once.
            patience_seconds: How long to retry during an outage.
        """
        call = self.script("log", run_id, read=list, at=at, lbytes=self.settings.run_log_max_bytes, body=lines)
        await self.connection.run(call, patience_seconds=patience_seconds)

    async def revive(self, run_id: str, *, timeout_seconds: float | None) -> Applied | str:
        """Resume an ended run: its unfinished work items are dispatched again. If refused, returns the reason."""
        keys = self.locate(run_id)
        dynamic = await self.command("list keys", "SMEMBERS", keys["extra"])
        status, *rest = await self.verb(
            "revive",
            run_id,
            timeout=None if timeout_seconds is None else round(timeout_seconds * 1000),
            extra={name.decode(): name.decode() for name in dynamic},
        )
        return self.applied(run_id, rest[0]) if status == b"revived" else cast(str, status.decode())

    async def purge(self, run_id: str) -> bool:
        """Delete an ended run, and its session if this is its current run; False while the run is running."""
        keys = self.locate(run_id)
        dynamic = await self.command("list keys", "SMEMBERS", keys["extra"])
        reply = await self.verb("purge", run_id, extra={name.decode(): name.decode() for name in dynamic})
        return bool(reply[0] != b"running")

    async def collect(
        self,
        work: Work,
        *,
        buffer: str,
        call: str,
        event: Envelope,
        expected: Sequence[tuple[str, int, str]],
        taken: str,
        within_seconds: float | None = None,
    ) -> Sequence[Envelope] | Refusal | None:
        """Add an event to a collect_events buffer; returns the set if this completes it, None while it is incomplete.

        Args:
            work: The collecting work item.
            buffer: Readable name of the buffer: step and buffer id.
            call: Identifies this call: buffer, work item and n-th call. A repeated attempt gets its old answer.

            event: The member.
            expected: (event type, how many, logical buffer key) per type, in order of first mention.
            taken: Logical name of the list a completed set is moved to.
            within_seconds: How long after its first event a set may become complete; None is no limit.
        """
        keys = self.locate(work.run_id)
        reply = await self.verb(
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
            wi=None if within_seconds is None else max(1, round(within_seconds * 1000)),
            extra={name: keys[name] for name in (*(key for _, _, key in expected), taken)},
        )
        status = reply[0].decode()
        if status == "waiting":
            return None
        if status != "complete":
            return Refusal(status)
        raw = await self.command("read a collected set", "LRANGE", keys[taken], 0, -1)
        return [Envelope.from_bytes(item) for item in raw]
