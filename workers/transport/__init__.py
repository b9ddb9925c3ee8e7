"""Celery's Redis transport, made to survive outages and malformed messages; Sentinel and AMQP brokers stay with kombu.

Read `channel.py` first.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """`umbel.workers.transport:Transport`, as Celery configurations name it; imported only on use."""
    if name == "Transport":
        return importlib.import_module(".channel", __package__).Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
