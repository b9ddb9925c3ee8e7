"""What a child run is started with, kept in its parent's shard until it has been started."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...model.commands import WhenBusy
from ...model.envelope import Envelope
from ...store.scripts import pack, unpack


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """Everything that a child is started with, except its id and its plan.

    Attributes:
        event: Its start event.
        queue: The broker queue of its steps that name none.
        timeout_seconds: Its time limit; None is none.
        options: Kept with the run.
        num_concurrent_runs: How many runs of its workflow may execute at a time; None is no limit.
        when_busy: For a child in a session: what to do while another run of the session is in progress.
    """

    event: Envelope
    queue: str
    timeout_seconds: float | None = None
    options: dict[str, Any] | None = None
    num_concurrent_runs: int | None = None
    when_busy: WhenBusy | None = None

    def to_bytes(self) -> bytes:
        """Encode it for Redis."""
        about = [self.queue, self.timeout_seconds, json.dumps(self.options or {}), self.num_concurrent_runs]
        # Earlier releases have no children in sessions: they cannot read such a spec and leave it to other processes.
        in_session = [] if self.when_busy is None else [self.when_busy]
        return pack([*about, self.event.to_bytes().decode(), *in_session])

    @staticmethod
    def from_bytes(data: bytes) -> ChildSpec:
        """The inverse of `to_bytes`."""
        queue, timeout_seconds, options, num_concurrent_runs, event, *in_session = unpack(data)
        return ChildSpec(
            Envelope.from_bytes(event.encode()),
            queue,
            timeout_seconds,
            json.loads(options),
            num_concurrent_runs,
            *in_session,
        )
