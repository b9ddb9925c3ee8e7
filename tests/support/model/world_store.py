"""The store of a world whose callers lose replies."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, TypeVar

from support.model.compare import agree
from support.store.checks import MutantStore
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.record import decode
from umbel.orchestration.store.scripts import names

T = TypeVar("T")

#: First reply of a verb -> its reply when the call is repeated; all other replies are repeated as they are.
SECOND = {b"ended": b"closed", b"parked": b"stale", b"revived": b"running"}
SAME_BODY = {"start", "commit", "stage", "unstage", "fence", "heartbeat"}
RETRYABLE = set(names()) - {"redispatch"}


class WorldStore(MutantStore):
    """Counts scripts, and sends many of them twice, as a caller does whose reply was lost."""

    def __init__(
        self, connection: Connection, settings: Settings, rng: random.Random, mutations: dict[str, tuple[str, str]]
    ) -> None:
        super().__init__(connection, settings, mutations)
        self.rng, self.scripts = rng, 0

    async def send_script(self, call: ScriptCall[T]) -> T:
        script = self.mutants.get(call.script.name, call.script)
        twice = script.name in RETRYABLE and self.rng.random() < 0.45
        self.scripts += 1 + twice
        raw = replace(call, script=script, read=lambda reply: reply)
        if not twice:
            return call.read(await self.connection.run(raw))
        first, second = await self.connection.batch("ask twice", [raw, raw])
        answers_agree(script.name, first, second)
        return call.read(first)


def answers_agree(verb: str, first: Any, second: Any) -> None:
    """Check that a repeated call gets the same reply as the first one."""
    if verb == "cancel" and second[0] == b"changed":  # by the first call: nothing is left to cancel
        return
    if first[0] == b"told":  # the run may have waited for just that end
        agree("second end of a child", second[0] in (b"known", b"closed"), True)
        return
    once = verb in ("wake", "deadline")  # their timer is gone
    agree(f"second answer of {verb}", second[0], b"early" if once else SECOND.get(first[0], first[0]))
    if verb == "commit" and len(first) > 2:
        agree("second commit", (second[4], *_work(second[3], second[5:])), (first[4], *_work(first[3], first[5:])))
    elif verb in SAME_BODY:
        agree(f"second body of {verb}", second[1:], first[1:])
    elif verb == "claim" and first[0] == b"claimed":
        agree("second claim", _work(second[1], second[3:]), _work(first[1], first[3:]))


def _work(packed: bytes, payloads: list[bytes]) -> tuple[Any, ...]:
    """Return a claimed work item: its record, events and answers. Lua returns fields and answers in any order."""
    record = decode(packed)
    events = len(record.all_event_ids)
    return record, payloads[:events], dict(zip(payloads[events::2], payloads[events + 1 :: 2], strict=True))
