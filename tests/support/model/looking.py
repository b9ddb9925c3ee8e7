"""The surroundings of a decision, and whether it would be the same a moment later, as scripts have to check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from support.model.compare import agree
from support.model.reference import ModelRun
from umbel.orchestration.model.commands import Command, Resume, TakeFromInbox
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.waiters import Surroundings
from umbel.orchestration.store.replies import Applied, CarryOn, Refusal


def looked(store: Any, model: ModelRun, events: Sequence[Envelope]) -> Surroundings:
    """Return what the store finds for these events: the waiters that they may answer."""
    around: Surroundings = store.waiters_for(model.run_id, events)
    if model.status == "running":
        expected = {name for name, waiter in model.waiters.items() if any(map(waiter.matches, events))}
        found = {(waiter.work_id, waiter.waiter_id) for waiter in around.waiters}
        agree("waiters of events", expected - found, set())
        agree("what is seen in the index", found, expected if around.seen is not None else found)
    return around


def still_holds(
    model: ModelRun,
    around: Surroundings,
    commands: Iterable[Command],
    *,
    sensitive: bool = True,
    found_nothing: bool = False,
    own: str = "",
) -> bool:
    """Return whether a script must accept a decision made on these surroundings, leaving aside those of an index."""
    waiters, early = set(model.waiters), {kept.event_id for kept in model.inbox}
    resumed = [command for command in commands if isinstance(command, Resume) and command.work_id != own]
    return (
        (not sensitive or around.version == model.added)
        and (not found_nothing or around.inbox_version == model.kept)
        and all((command.work_id, command.waiter_id) in waiters for command in resumed)
        and all(command.event_id in early for command in commands if isinstance(command, TakeFromInbox))
    )


def judged(reply: object, *, holds: bool, seen: bool, decided: Iterable[Command], now: Iterable[Command]) -> bool:
    """Return whether the script has accepted the decision; fails if it should not have.

    Args:
        reply: The script's reply.
        holds: The result of `still_holds`.
        seen: It was decided with the index: it may be accepted although waiters were added.
        decided: The decision.
        now: The decision on the current surroundings.
    """
    same = Counter(map(repr, decided)) == Counter(map(repr, now))
    accepted = reply is not Refusal.CHANGED
    agree("an accepted decision is the one of now", accepted and not same, False)
    if holds or not seen:
        agree("a decision is accepted", accepted, holds)
    return accepted


def agree_on_repetition(model: ModelRun, taken: Applied | Refusal, carry_on: CarryOn, refusal: Refusal | None) -> None:
    """Check the reply to a repeated commit that had only a continuation: its claim is found as long as it is held."""
    running = (item for item in model.items.values() if item.state == "running")
    held = next((item for item in running if item.claim_id == carry_on.claim_id), None)
    if isinstance(taken, Refusal):
        agree("a commit repeated too late", taken, refusal)
        agree("what it went on with", held is None or model.status != "running", True)
        return
    agree("a repeated commit", replace(taken, continued=None), Applied())
    agree("what it goes on with", taken.continued and taken.continued.token, held and held.token)
