"""Connections to the state Redis: how they are made, and what an outage means.

Every script is idempotent, so a command whose reply was lost is simply sent again, for as long as the caller's
patience lasts. redis-py's own silent retry is switched off: one place decides.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from ..model.errors import ConfigurationError, StoreUnavailable
from .settings import redact_url

T = TypeVar("T")

#: A redis-py client. Its stubs type each reply as the union of all replies; replies are typed where they are decoded.
Client: TypeAlias = Any

#: Faults of Redis that pass: it is restarting, failing over, full or busy.
PASSING = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError)
#: How a Redis before version 7 words it when a script was refused in its middle (it then has written nothing).
_REFUSED_WITHIN = re.compile(r"@user_script: ?\d+: -(?:OOM|READONLY|MISCONF|NOREPLICAS) ")
_PASSING_WORDS = (
    "BUSY ",
    "LOADING",
    "READONLY",
    "OOM ",
    "NOREPLICAS",
    "MISCONF",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
)


class WaryPool(ConnectionPool):
    """Connections of equal age share their fate: when one is found broken, the idle ones are made anew before use.

    Otherwise, where a machine on the way has gone without a word, each of them would cost a time-out of its own.
    """

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        super().release(connection)
        if not connection.is_connected:
            self.disconnect(inuse_connections=False)


def connect(url: str, *, timeout_seconds: float = 5.0) -> Client:
    """A client for the state Redis. No command is sent yet.

    Args:
        url: Where it is.
        timeout_seconds: How long one answer may take; a connection that is silent for longer counts as broken.

    Raises:
        ConfigurationError: The URL is not a Redis URL.
    """
    over_tcp = {} if url.startswith("unix:") else {"socket_keepalive": True}
    try:
        return Redis.from_pool(
            WaryPool.from_url(
                url,
                protocol=2,  # replies of one shape with every release; no maintenance notices to negotiate
                socket_timeout=timeout_seconds,
                socket_connect_timeout=5.0,
                **over_tcp,
                health_check_interval=15,
                retry=Retry(NoBackoff(), 0),
                max_connections=10_000,
            )
        )
    except ValueError as error:
        raise not_a_url(url, error) from None


def not_a_url(url: str, error: ValueError) -> ConfigurationError:
    """What is raised for an address that redis-py cannot read."""
    # A password that was not percent-encoded is taken for a port, and the error quotes it.
    reason = "its port is not a number" if "Port could not be cast" in str(error) else str(error)
    return ConfigurationError(
        f"UMBEL_REDIS_URL is {redact_url(url)!r}, which is not a Redis URL ({reason}). Expected "
        "redis://[[user]:password@]host:port/db, rediss://… or unix://path; in a password, write / ? # @ % as %2F "
        "%3F %23 %40 %25."
    )


def is_passing(error: Exception) -> bool:
    """Whether the same question may be answered a moment later."""
    if isinstance(error, AuthenticationError):
        return False
    if isinstance(error, PASSING):
        return True
    if not isinstance(error, ResponseError):
        return False
    return str(error).startswith(_PASSING_WORDS) or _REFUSED_WITHIN.search(str(error)) is not None


def unavailable(url: str, what: str, patience_seconds: float, error: Exception) -> StoreUnavailable:
    """What is raised when an outage outlasts the patience."""
    return StoreUnavailable(
        f"Redis at {redact_url(url)} did not answer within {patience_seconds:g} s while umbel was trying to {what}: "
        f"{str(error).rstrip('.')}. Nothing is lost: start Redis or correct UMBEL_REDIS_URL, then try again.",
        redact_url(url),
    )


def refused_credentials(url: str, error: Exception) -> ConfigurationError:
    """What is raised when Redis does not know us."""
    return ConfigurationError(
        f"Redis at {redact_url(url)} refuses the credentials: {error}. Correct user and password in UMBEL_REDIS_URL."
    )


def persist(call: Callable[[], T], *, what: str, url: str, patience_seconds: float) -> T:
    """Call until Redis answers; only for calls that may be repeated.

    A connection that has gone silent may use up all the patience before that is noticed, with Redis in the best of
    health; so after the first time-out there is one more try, over a fresh connection, however late it is.

    Args:
        call: One idempotent exchange with Redis.
        what: What is being done, for the error.
        url: Where, for the error; its password is not shown.
        patience_seconds: How long an outage is waited out.

    Raises:
        StoreUnavailable: Redis did not answer in time. Whether the last try was applied is not known.
        ConfigurationError: Redis refuses the credentials.
    """
    deadline = time.monotonic() + patience_seconds
    pause = 0.02
    has_timed_out = patience_seconds <= 0
    while True:
        try:
            return call()
        except AuthenticationError as error:
            raise refused_credentials(url, error) from error
        except (ConnectionError, TimeoutError, ResponseError) as error:
            if not is_passing(error):
                raise
            if isinstance(error, TimeoutError) and not has_timed_out:
                has_timed_out = True
                continue
            if time.monotonic() + pause > deadline:
                raise unavailable(url, what, patience_seconds, error) from error
            time.sleep(pause)
            pause = min(pause * 2, 1.0)
