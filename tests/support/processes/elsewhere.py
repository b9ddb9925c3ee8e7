"""What tests of running workflows have as `umbel.local(in_process=True)`, on a Redis that exists already."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from umbel import Settings
from umbel.tasks.client.runtime import Runtime, keep_default_runtime, use_runtime
from umbel.workers.local.deployment import InProcessRuntime


@contextmanager
def in_process_on(settings: Settings, state: str, broker: str | None) -> Iterator[Runtime]:
    """A deployment of its own there, with a worker thread of this process; the default runtime meanwhile."""
    prefix = f"p{secrets.token_hex(5)}"
    there = settings.model_copy(update={"redis_url": state, "broker_url": broker, "key_prefix": prefix})
    with keep_default_runtime():
        runtime = InProcessRuntime(there, (), 100)
        try:
            with use_runtime(runtime):
                yield runtime
        finally:
            runtime.close()
