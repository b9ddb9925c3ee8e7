"""What faults of Redis mean: which pass by themselves, and what is raised for the others, a server that is too old
among them; and a plain client.

Runs are read and written through `pipeline.Connection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from redis import Redis
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
from ..model.releases import OLDEST_RELEASES, Release
from .settings import redact_url

#: A redis-py client. Its stubs type each reply as the union of all replies; replies are typed where they are decoded.
Client: TypeAlias = Any

#: Faults of Redis that pass: it is restarting, failing over, full or busy.
PASSING = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError)
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


def connect(url: str, *, timeout_seconds: float = 5.0) -> Client:
    """A client that waits out nothing, for questions to a server about itself. No command is sent yet.

    Args:
        url: Where it is.
        timeout_seconds: How long one answer may take; a connection that is silent for longer counts as broken.

    Raises:
        ConfigurationError: The URL is not a Redis URL.
    """
    try:
        return Redis.from_url(
            url,
            protocol=2,  # replies of one shape with every release; no maintenance notices to negotiate
            socket_timeout=timeout_seconds,
            socket_connect_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
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


async def refuse_old_server(connection: Any, url: str) -> None:
    """Ask a server for its release. One that forbids the question is accepted: calling a function shows what it lacks.

    Args:
        connection: A connection of redis-py's that has just been made.
        url: Where it leads.

    Raises:
        ConfigurationError: The server is too old.
        ConnectionError, TimeoutError: It did not answer.
    """
    await connection.send_command("INFO", "server")
    try:
        reply: bytes = await connection.read_response(disable_decoding=True)
    except ResponseError:
        return
    lines = reply.decode(errors="replace").splitlines()
    refuse_old_release(dict(line.split(":", 1) for line in lines if ":" in line), url)


def refuse_old_release(info: Mapping[str, Any], url: str) -> None:
    """Judge what a server replied to `INFO server`.

    Raises:
        ConfigurationError: The server is too old.
    """
    release = Release.of_info(info)
    if release is not None and not release.is_new_enough:
        raise ConfigurationError(
            f"The server at {redact_url(url)} is {release}, which is too old: umbel needs {OLDEST_RELEASES}, or newer. "
            "Upgrade it, or set UMBEL_REDIS_URL to a newer server."
        )


def is_passing(error: Exception) -> bool:
    """Whether the same question may be answered a moment later."""
    if isinstance(error, AuthenticationError):
        return False
    if isinstance(error, PASSING):
        return True
    if not isinstance(error, ResponseError):
        return False
    return str(error).startswith(_PASSING_WORDS)


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
        f"Redis at {redact_url(url)} refuses the credentials: {str(error).rstrip('.')}. Correct user and password in "
        "UMBEL_REDIS_URL."
    )
