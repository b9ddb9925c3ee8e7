"""What an attempt returned, published and sent, read back from the commands of its commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...model.envelope import Envelope
from ...model.plan import Plan
from ...model.work_item import derive_id

Commands = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CameTo:
    """What an attempt produced.

    Attributes:
        returned: What it returned.
        published: What its commit wrote to the stream for it.
        sent: Each event that it sent, and the only step it was for; None for any step.
    """

    returned: tuple[Envelope, ...]
    published: tuple[Envelope, ...]
    sent: tuple[tuple[Envelope, str | None], ...]


class _Unclear(Exception):
    """The outcome cannot be derived from the commands."""


def outcome_of(
    plan: Plan, commands: Commands, work_id: str, about: Mapping[str, Any], early: Sequence[tuple[str, Commands]]
) -> CameTo | None:
    """What an attempt that returned has produced; None if the commands do not contain all of it, or may not.

    Args:
        plan: The plan that the fork continues with.
        commands: The commands of its commit.
        work_id: Its work item.
        about: The details of its commit's journal entry.
        early: What it sent before its commit: identity and commands of each event.
    """
    try:
        before, after = _parts(commands, about["s"])
        published = tuple(envelope_of(each) for each in before if each["o"] == "publish" and each["s"])
        sends = [*early, *_sends([each for each in before if each["o"] != "publish" or not each["s"]])]
        return CameTo(_returned(after, work_id, about["out"]), published, tuple(_sent(plan, work_id, sends)))
    except _Unclear:
        return None


def envelope_of(command: Mapping[str, Any]) -> Envelope:
    """The event of a command."""
    return Envelope.from_bytes(raw(command["d"]))


def raw(text: str) -> bytes:
    """A payload that was decoded to text, as bytes again."""
    return text.encode("utf-8", "surrogateescape")


def _parts(commands: Commands, step: str) -> tuple[Commands, Commands]:
    """The commands for what the attempt emitted, and those for its outcome: the trace of its end is between both."""
    for place, each in enumerate(commands):
        if each["o"] == "trace" and each["st"] == "not_running" and each["s"] == step:
            return commands[:place], commands[place + 1 :]
    raise _Unclear


def _returned(commands: Commands, work_id: str, out: str) -> tuple[Envelope, ...]:
    if [each["o"] for each in commands] == ["finish"]:
        return (envelope_of(commands[0]),)
    if not commands or commands[-1]["o"] != "done":
        raise _Unclear
    routed = commands[:-1]
    if out == "fannedout":
        if not routed or routed[0]["o"] != "open":
            raise _Unclear
        routed = routed[1:]
    found: list[Envelope] = []
    for place, (emit_id, event) in enumerate(_routed(routed)):
        if emit_id not in ("", derive_id(work_id, "returned", place)):
            raise _Unclear
        found.append(event)
    if out == "returned" and len(found) > 1:
        raise _Unclear
    return tuple(found)


def _routed(commands: Commands) -> Iterator[tuple[str, Envelope]]:
    """The events that commands route, each with its identity if they name it. See `decide.route`."""
    emit_id, data, gathered_by = "", "", set[str]()
    for each in commands:
        kind = each["o"]
        if kind in ("deliver", "join", "resume", "trace"):
            continue
        if kind not in ("publish", "keep", "inbox", "absorb"):
            raise _Unclear
        # An event is published, kept and absorbed in this order: each at most once, and absorbed once per step.
        goes_on = each["d"] == data and (
            each["s"] not in gathered_by if kind == "absorb" else kind == "keep" and not emit_id and not gathered_by
        )
        if not goes_on:
            if data:
                yield emit_id, Envelope.from_bytes(raw(data))
            emit_id, data, gathered_by = "", each["d"], set()
        emit_id = each.get("e", emit_id)
        if kind == "absorb":
            gathered_by.add(each["s"])
    if data:
        yield emit_id, Envelope.from_bytes(raw(data))


def _sends(commands: Commands) -> Iterator[tuple[str, Commands]]:
    """The commands of each sent event, with its identity if they name it."""
    some: Commands = []
    for each in commands:
        is_question = [one["o"] for one in some] == ["publish"] and each["o"] == "keep"
        if some and each["o"] in ("publish", "keep", "trace") and not is_question:
            yield _identity(some), some
            some = []
        some.append(each)
    if some:
        yield _identity(some), some


def _identity(commands: Commands) -> str:
    return next((str(each["e"]) for each in commands if each["o"] in ("keep", "inbox")), "")


def _sent(plan: Plan, work_id: str, sends: Sequence[tuple[str, Commands]]) -> Iterator[tuple[Envelope, str | None]]:
    """The sent events and the step that each was for, derived from their identities."""
    occurrences: dict[tuple[str, bytes, str], int] = {}
    for emit_id, commands in sends:
        if not commands or any(each["o"] == "resume" for each in commands):
            raise _Unclear  # the wait that it answered may not exist in the fork
        event = next((envelope_of(each) for each in commands if "d" in each), None)
        if event is None:
            raise _Unclear
        for target in ("", *(step.name for step in plan.accepting(event))):
            number = occurrences.get((event.type, event.payload, target), 0) + 1
            if emit_id in ("", derive_id(work_id, "sent", event.type, event.payload, target, number)):
                occurrences[event.type, event.payload, target] = number
                yield event, target or None
                break
        else:
            raise _Unclear
