"""How many broker messages were set aside as not to be understood. Setting aside is the business of workers."""

from __future__ import annotations

from typing import Any

from celery import Celery

from ...orchestration.store.connection import connect

#: HASH in the broker's Redis, queue -> how many messages were ever set aside. A LIST per queue is named after it, with
#: `:<queue>` behind. Both live until an operator deletes them.
QUARANTINE_KEY = "umbel:quarantine"


def quarantine_counts(app: Celery) -> dict[str, int]:
    """queue -> messages set aside, ever; empty is how it should be, and what a broker that is no Redis has.

    Raises:
        RedisError: The broker does not answer.
    """
    url: Any = app.conf.broker_read_url or app.conf.broker_url
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://", "unix://")) or ";" in url:
        return {}
    prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    with connect(url, timeout_seconds=2.0) as client:
        return {queue.decode(): int(number) for queue, number in client.hgetall(prefix + QUARANTINE_KEY).items()}
