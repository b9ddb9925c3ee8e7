"""Reads what an attempt emitted from the commands that were applied for it, both recorded and replayed ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ...orchestration.engine.children.spec import ChildSpec
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.work_item import derive_id


@dataclass
class Emissions:
    """What an attempt has emitted, as JSON values.

    Attributes:
        returned: Events, in order: those that went to steps, then those that were only gathered.
        sent: Events that were sent, in no particular order, and questions, which are published.
        streamed: Events that were written to the stream.
        waits: What it waits for.
        started: Child runs that it waits for.
    """

    returned: list[Any] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)
    streamed: list[Any] = field(default_factory=list)
    waits: list[Any] = field(default_factory=list)
    started: list[Any] = field(default_factory=list)


def emissions(work_id: str, commands: Sequence[Mapping[str, Any]]) -> Emissions:
    """The emissions in the commands of an attempt: those of its outcome, and of what it sent and published."""
    found = Emissions()
    kept: dict[str, Any] = {}
    gathered: dict[str, list[Any]] = {}
    questions: list[Any] = []
    resumed = {command["e"] for command in commands if command["o"] == "resume" and command["w"] == work_id}
    for command in commands:
        match command["o"]:
            case "keep" | "inbox" if command["e"] not in resumed:
                kept[command["e"]] = _event(command["d"])
            case "absorb":
                gathered.setdefault(command["s"], []).append(_event(command["d"]))
            case "finish" if command["status"] == "completed":
                found.returned.append(_event(command["d"]))
            case "publish" if command["s"]:
                found.streamed.append(_event(command["d"]))
            case "publish":
                questions.append(_event(command["d"]))
            case "suspend":
                waiter = json.loads(_bytes(command["d"]))
                wait = {"event": waiter["t"], "requirements": waiter["r"], "name": command["wt"]}
                found.waits.append(wait | {"timeout_ms": command.get("delay")})
            case "spawn":
                event = _event(ChildSpec.from_bytes(_bytes(command["sp"])).event.to_bytes())
                found.started.append({"workflow": command["wf"], "name": command["wt"], "start_event": event})
    kept.pop(derive_id(work_id, "failed"), None)
    most = len(kept) + sum(map(len, gathered.values()))
    for index in range(most):
        event = kept.pop(derive_id(work_id, "returned", index), None)
        if event is not None:
            found.returned.append(event)
    there = [*found.returned]
    for events in gathered.values():
        found.returned += _without(events, there)
    found.sent = [*kept.values(), *_without(questions, [*kept.values(), *found.returned])]
    found.sent.sort(key=_order)
    return found


def differences(recorded: Sequence[Any], replayed: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """The pairs that differ; None where one side has no counterpart."""
    return ((before, now) for before, now in zip_longest(recorded, replayed) if before != now)


def unmatched(recorded: Iterable[Any], replayed: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """The same, regardless of order."""
    before, now = [*recorded], [*replayed]
    return differences(_without(before, now), _without(now, before))


def shown(event: Envelope) -> Any:
    """An event as a JSON value."""
    return _event(event.to_bytes())


def _event(data: bytes | str) -> Any:
    envelope = Envelope.from_bytes(_bytes(data))
    return {"type": envelope.type, "value": json.loads(envelope.payload)}


def _bytes(data: bytes | str) -> bytes:
    return data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data


def _order(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _without(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """The values that are not among the others. Each of the others accounts for one value."""
    left, rest = Counter(map(_order, others)), []
    for value in values:
        if left[key := _order(value)]:
            left[key] -= 1
        else:
            rest.append(value)
    return rest
