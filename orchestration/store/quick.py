"""The quick verb, `hop`: the commit of a step that has returned one event for one step, where the caller continues.

*Promise.* As for `Store.commit`: applied completely or not at all, under the token, and safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.envelope import Envelope
from ..model.work_item import Work
from .asks import ScriptCall
from .calls import fixed_keys
from .replies import hopped_work
from .scripts import load, pack
from .verbs import Store


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop.

    Attributes:
        where: Arguments of the script that are the same for all events of a class at a step.
        step: Name of the next step.
        work_id: Id of the next work item.
        event_id: Id of the event.
        event: The event that was returned.
        data: Its envelope as it is stored.
        commands: What `commit` would apply, packed, for the journal; empty if the journal keeps none.
        entry: The journal's summary.
        claim_id: Id of the next claim.
    """

    where: Mapping[str, Any]
    step: str
    work_id: str
    event_id: str
    event: Envelope
    data: bytes
    commands: bytes
    entry: Mapping[str, Any]
    claim_id: str


async def hop(store: Store, work: Work, to: Hop) -> Work | None:
    """Commit `work` and claim what follows; None if it takes an ordinary commit, in which case nothing was written.

    Raises:
        StoreUnavailable: No answer within the store's `patience_seconds`.
    """
    script = load("hop")
    keys = store.locate(work.run_id)
    named = list(fixed_keys(keys, script.keys))
    named[script.positions["owner"]] = keys[f"owner:{work.owner}"]
    args = {
        **to.where,
        "run": work.run_id,
        "w": work.work_id,
        "t": work.token,
        "member": work.member,
        "owner": work.owner,
        "carry": to.claim_id,
        "entry": to.entry,
        "n": to.work_id,
        "e": to.event_id,
        "d": to.data,
        "sc": work.scope.path,
    }

    def read(reply: Any) -> Work | None:
        if reply[0] != b"hopped":
            return None
        token, slot, now = (int(each) for each in reply[1:])
        return hopped_work(
            work,
            to.step,
            to.work_id,
            to.event,
            queue=to.where["q"],
            claim_id=to.claim_id,
            token=token,
            slot=slot,
            claimed_at=now,
        )

    sent = [pack(args), to.commands] if to.commands else [pack(args)]
    call = ScriptCall(f"commit run {work.run_id!r}", script, named, sent, read)
    return await store.send_script(call)
