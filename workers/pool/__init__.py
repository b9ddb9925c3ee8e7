"""The asyncio pool: async steps on one event loop, plain steps in threads. The other pools are Celery's own.

Read `taskpool.py` first.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """`umbel.workers.pool:AsyncPool`, as Celery configurations name it; imported only on use."""
    if name == "AsyncPool":
        return importlib.import_module(".taskpool", __package__).AsyncPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
