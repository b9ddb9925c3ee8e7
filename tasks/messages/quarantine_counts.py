"""How many malformed broker messages were quarantined. Workers quarantine them; this only counts."""

from __future__ import annotations

from typing import Any

from celery import Celery

from ...orchestration.connection.keys import QUARANTINE_KEY
from ...orchestration.connection.redis_client import connect
from ...orchestration.connection.settings import redis_behind


def quarantine_counts(app: Celery) -> dict[str, int]:
    """How many messages were ever quarantined, by queue. Normally empty; always empty on a broker that is not Redis.

    Raises:
        RedisError: The broker does not answer.
    """
    url: Any = app.conf.broker_read_url or app.conf.broker_url
    server = redis_behind(url) if isinstance(url, str) else None
    if server is None:
        return {}
    prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    with connect(server, timeout_seconds=2.0) as client:
        return {queue.decode(): int(number) for queue, number in client.hgetall(prefix + QUARANTINE_KEY).items()}
