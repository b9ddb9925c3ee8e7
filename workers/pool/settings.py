"""An app's settings for its asyncio pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import celery

from ...orchestration.model.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The app's settings whose names begin with `worker_asyncio_`."""

    #: Concurrent plain tasks.
    threads: int = 8
    #: `asyncio` or `uvloop`.
    loop: str = "asyncio"
    #: A task that blocks the loop for longer is named in the log; 0 disables this.
    lag_seconds: float = 1.0

    @classmethod
    def of(cls, app: celery.Celery) -> Self:
        """Read them.

        Raises:
            ConfigurationError: One is invalid.
        """
        given = {name: app.conf.get(f"worker_asyncio_{name}") for name in ("threads", "loop", "lag_seconds")}
        settings = cls(**{name: value for name, value in given.items() if value is not None})
        _check("worker_asyncio_threads", settings.threads, int, 1)
        _check("worker_asyncio_lag_seconds", settings.lag_seconds, (int, float), 0)
        return settings


def _check(name: str, value: Any, kind: Any, least: int) -> None:
    if not isinstance(value, kind) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name} must be a number of at least {least}, got {value!r}.")
