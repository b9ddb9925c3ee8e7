"""Reading from Redis for people: one call, asked again while Redis is away, as every verb of the store is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..orchestration.connection import persist
from ..orchestration.store import Store

T = TypeVar("T")


def look(store: Store, what: str, read: Callable[[], T]) -> T:
    """Call `read` until Redis answers, for as long as the store's patience lasts.

    Args:
        store: The store.
        what: What is being done, for the error: "look at …".
        read: One exchange with Redis that changes nothing.

    Raises:
        StoreUnavailable: Redis did not answer in time.
    """
    return persist(read, what=what, url=store.settings.redis_url or "", patience_seconds=store.patience_seconds)
