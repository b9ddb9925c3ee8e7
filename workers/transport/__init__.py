"""Celery's Redis transport, made to survive outages and malformed messages.

Read `channel.py` first.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """`umbel.workers.transport:Transport` is how Celery configurations name it; importing it costs only them."""
    if name == "Transport":
        return importlib.import_module(".channel", __package__).Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
