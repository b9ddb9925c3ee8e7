"""The equivalent of `umbel.local(in_process=True)` on an existing Redis."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from umbel import Settings
from umbel.tasks.client.runtime import Runtime, keep_default_runtime, use_runtime
from umbel.workers.local.deployment import InProcessRuntime


@contextmanager
def in_process_on(settings: Settings, state: str, broker: str | None) -> Iterator[Runtime]:
    """Yield a deployment there with a worker thread in this process; it is the default runtime meanwhile."""
    prefix = f"p{secrets.token_hex(5)}"
    there = settings.model_copy(update={"redis_url": state, "broker_url": broker, "key_prefix": prefix})
    with keep_default_runtime():
        runtime = InProcessRuntime(there, (), 100)
        try:
            with use_runtime(runtime):
                yield runtime
        finally:
            runtime.close()
