"""Faults of Redis: which are transient, and what is raised for the others; and a plain client.

A server that is too old counts as a fault. Runs are read and written through `pipeline.Connection`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    DataError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from ..model.errors import ConfigurationError, StoreUnavailable
from ..model.releases import OLDEST_RELEASES, Release
from .cluster import Cluster, is_cluster, refusal, slots_in
from .refusals import refusal_in
from .sentinel import Sentinels, primary_pool
from .settings import redact_url

#: The minimal rights of an ACL user for umbel, broker included.
RIGHTS = "~umbel:* &umbel:* +@read +@write +@pubsub +@scripting +@transaction +@connection +time -@dangerous"

#: What Redis accepts as the name of a connection.
_CLIENT_NAME = re.compile("[!-~]*")

_OF_SENTINEL = ("sentinel://", "redis+sentinel://", "rediss+sentinel://")

#: Schemes whose path is the number of a database.
_OF_ONE_REDIS = ("redis", "rediss", "valkey", "valkeys")
_DATABASE = re.compile("(/[0-9]*)?/?")

#: How a server reports a command that `rename-command` has disabled, and one in a script, which it does not name.
_DISABLED = re.compile(
    r"(?:ERR )?(?P<what>unknown (?:\w+ )?command\b.*?)(?:, with args beginning with.*)?", re.I | re.S
)

#: A redis-py client. Its stubs type each reply as the union of all replies; replies are typed where they are decoded.
Client: TypeAlias = Any

#: Transient faults of Redis: it is restarting, failing over, full or busy.
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
    "MOVED ",
    "ASK ",
)

#: Refusals that are not the script's fault. They come before its first write, so none of it is applied.
_REFUSALS: dict[str, type[RedisError]] = {
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "MISCONF": ReadOnlyError,
    "NOREPLICAS": ReadOnlyError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
    "NOPERM": NoPermissionError,
}


def connect(url: str, *, timeout_seconds: float = 5.0) -> Client:
    """A client that does not retry, for queries to a server about itself. Sends no command yet.

    Args:
        url: The server's URL.
        timeout_seconds: How long one answer may take; a connection that is silent for longer counts as broken.

    Raises:
        ConfigurationError: The URL is not a Redis URL.
    """
    pool = pool_of(
        ConnectionPool,
        url,
        protocol=2,  # same reply format with every release; no maintenance notices to negotiate
        socket_timeout=timeout_seconds,
        socket_connect_timeout=5.0,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def connect_each(url: str) -> list[Client]:
    """Such a client for each server that stores runs; for a cluster, one for each primary.

    Raises:
        ConfigurationError: The URL is not a Redis URL, or the server is not a node of a cluster.
        RedisError: No node of the cluster answers.
    """
    cluster = Cluster.of(url)
    if cluster is None:
        return [connect(url)]
    fault: Exception = ConnectionError("no node answers")
    for address in cluster.nodes:
        asked = connect(cluster.url_of(address)).connection_pool.make_connection()
        try:
            asked.connect()
            asked.send_command("CLUSTER", "SLOTS")
            found = slots_in(asked.read_response(disable_decoding=True), address)
        except ResponseError as error:
            raise refusal(error, url) from error
        except RedisError as error:
            fault = error
            continue
        finally:
            asked.disconnect()
        return [connect(cluster.url_of(primary)) for primary in dict.fromkeys(each.primary for each in found)]
    raise fault


def pool_of(kind: Any, url: str, **options: Any) -> Any:
    """A redis-py pool of connections to this address.

    Raises:
        ConfigurationError: It is not a Redis URL, or has an option that redis-py lacks. The message shows no password.
    """
    reason = flaw_of(url)
    if reason is None and url.startswith(_OF_SENTINEL) and not _names_primary(url):
        reason = "for Sentinel, sentinel://host1:26379,host2:26379/NAME/0 with NAME as the sentinels call the primary"
    elif reason is None and not url.startswith(("redis://", "rediss://", "unix://", *_OF_SENTINEL)):
        reason = "a Redis Cluster is redis+cluster://host1:6379,host2:6379/0, for the state alone"
    if reason is None:
        try:
            sentinels = Sentinels.of(url)
            pool = kind.from_url(url, **options) if sentinels is None else primary_pool(kind, sentinels, **options)
            # Replies have one format, whatever the URL's options say.
            pool.connection_kwargs |= {"protocol": 2, "decode_responses": False}
            pool.connection_class(**pool.connection_kwargs)
            if not _CLIENT_NAME.fullmatch(pool.connection_kwargs.get("client_name") or ""):
                raise ValueError("its client_name has spaces or characters that Redis does not accept there")
            return pool
        except ValueError as error:
            # A password that was not percent-encoded is taken for a port, and the error quotes it.
            reason = "its port is not a number" if "Port could not be cast" in str(error) else str(error)
        except (TypeError, AttributeError, DataError) as error:
            # What follows a ? in a password is taken for options.
            name = "" if "@" in url.partition("?")[2] else str(error).partition(" unexpected keyword argument ")[2]
            reason = f"redis-py has no option {name}" if name else "an option of it is for programs"
    raise ConfigurationError(
        f"UMBEL_REDIS_URL is {redact_url(url)!r}, which is not a Redis URL ({reason}). Expected "
        "redis://[[user]:password@]host:port/db, rediss://…, unix://path, sentinel://… or redis+cluster://…; in a "
        "password, write / ? # @ % as %2F %3F %23 %40 %25."
    )


def _names_primary(url: str) -> bool:
    try:
        return Sentinels.of(url) is not None
    except ValueError:  # reported when the connection is made
        return True


def flaw_of(url: str) -> str | None:
    """Why this is not the URL of a server or a broker; None if it may be one."""
    if url[:1] in "'\"" or url[-1:] in "'\"":
        return "it is in quotation marks, which belong to the shell"
    if any(character.isspace() for character in url):
        return "there is a space or line break in it"
    return next(filter(None, map(_flaw_of_one, url.split(";"))), None)


def _flaw_of_one(url: str) -> str | None:
    scheme, _, place = url.partition("://")
    authority, *_ = re.split("[/?#]", place, maxsplit=1)
    path, _, query = place.removeprefix(authority).partition("?")
    if authority.count("@") > 1:
        return "an @ in its password is not written as %40"
    # A password is cut off at its first / or ? or #, and the server is then looked for in what came before.
    names = path + "".join(option.partition("=")[0] for option in query.split("&"))
    if authority and ("@" in names or ("@" in query and ("@" in authority or authority.startswith(":")))):
        return "write / ? # @ % in its password as %2F %3F %23 %40 %25"
    if scheme in _OF_ONE_REDIS and not _DATABASE.fullmatch(path):
        return "what follows its host is not the number of a database"
    return None


async def cut(connection: Any) -> None:
    """Close an asynchronous connection without waiting for the server.

    The regular end of TLS waits up to 30 seconds for the server's answer; a loop that is closed earlier would leave
    the socket open.
    """
    if connection._writer is not None:
        connection._writer.transport.abort()
    await connection.disconnect(nowait=True)


async def refuse_old_server(connection: Any, url: str, *, in_cluster: bool = False) -> str:
    """Check a server's release. A server that forbids `INFO` is accepted: calling a function shows what it lacks.

    Args:
        connection: A redis-py connection that has just been made.
        url: The server it is connected to.
        in_cluster: Whether it should be a node of a cluster.

    Returns:
        An id that the server has until it is restarted; empty if it forbids `INFO`.

    Raises:
        ConfigurationError: The server is too old, or a node of a cluster although none was expected.
        ConnectionError, TimeoutError: It did not answer.
    """
    await connection.send_command("INFO", "server")
    try:
        reply: bytes = await connection.read_response(disable_decoding=True)
    except ResponseError:
        return ""
    lines = reply.decode(errors="replace").splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    refuse_old_release(info, url, in_cluster=in_cluster)
    return info.get("run_id", "")


def refuse_old_release(info: Mapping[str, Any], url: str, *, in_cluster: bool = False) -> None:
    """Check what a server replied to `INFO server`.

    Raises:
        ConfigurationError: The server is too old, or a node of a cluster although none was expected.
    """
    if info.get("redis_mode") == "cluster" and not in_cluster:
        raise ConfigurationError(
            f"The server at {redact_url(url)} is a node of a Redis Cluster. Write redis+cluster:// instead of redis:// "
            "in UMBEL_REDIS_URL, and set UMBEL_BROKER_URL to a broker outside the cluster."
        )
    release = Release.of_info(info)
    if release is not None and not release.is_new_enough:
        raise ConfigurationError(
            f"The server at {redact_url(url)} is {release}, which is too old: umbel needs {OLDEST_RELEASES}, or newer. "
            "Upgrade it, or set UMBEL_REDIS_URL to a newer server."
        )


def is_passing(error: Exception) -> bool:
    """Whether the error is transient: the same command may succeed a moment later."""
    if isinstance(error, AuthenticationError):
        return False
    if isinstance(error, PASSING):
        return True
    if not isinstance(error, ResponseError):
        return False
    return str(error).startswith(_PASSING_WORDS)


def unavailable(url: str, what: str, patience_seconds: float, error: Exception) -> StoreUnavailable:
    """The error that is raised when an outage, or a refusal, lasts longer than `patience_seconds`."""
    where, reason = redact_url(url), str(error).rstrip(".")
    refused = refusal_in(error)
    if refused is not None:
        waited = f" for {round(patience_seconds, 2):g} s" if patience_seconds else ""
        return StoreUnavailable(
            f"Redis at {where} {refused.why}. umbel was trying{waited} to {what}: {reason}. Nothing is lost: "
            f"{refused.remedy}, then try again.",
            where,
            refuses=True,
        )
    waited = f" within {round(patience_seconds, 2):g} s" if patience_seconds else ""
    return StoreUnavailable(
        f"Redis at {where} did not answer{waited} while umbel was trying to {what}: {reason}. Nothing is lost: start "
        "Redis or correct UMBEL_REDIS_URL, then try again.",
        where,
    )


def refusal_of(url: str, error: Exception) -> ConfigurationError | None:
    """What to raise for an error that a retry would not change; None for any other error."""
    if isinstance(error, ConfigurationError):
        return error
    if isinstance(error, AuthenticationError):
        return refused_credentials(url, error)
    if isinstance(error, NoPermissionError):
        return lacking_rights(url, error)
    if not isinstance(error, ResponseError):
        return None
    if "DB index is out of range" in str(error):
        return ConfigurationError(
            f"Redis at {redact_url(url)} has no database of that number (DB index is out of range). Write a smaller "
            "one in the URL: a server has databases 0 to 15, unless its setting `databases` says otherwise."
        )
    disabled = _DISABLED.fullmatch(str(error))
    return lacking_command(url, disabled["what"]) if disabled is not None else None


def is_forbidden(error: ResponseError) -> bool:
    """Whether the user may not use the command, or the server's configuration disables it."""
    return isinstance(error, NoPermissionError) or _DISABLED.fullmatch(str(error)) is not None


def lacking_command(url: str, what: str) -> ConfigurationError:
    """What to raise when the server lacks a command that umbel needs.

    Args:
        url: The server.
        what: How it said so, without the command's arguments.
    """
    unnamed = "; umbel's functions call TIME and the commands of data types" if "from script" in what else ""
    return ConfigurationError(
        f"Redis at {redact_url(url)} lacks a command that umbel needs: {what.rstrip('. ')}{unnamed}. If its "
        f"configuration disables the command (rename-command), remove that line and restart it; the rights of single "
        f"users are better limited by ACL SETUSER NAME {RIGHTS}"
    )


def lacking_rights(url: str, error: Exception) -> ConfigurationError:
    """What to raise when Redis accepts the user but denies it a right that umbel needs."""
    return ConfigurationError(
        f"Redis at {redact_url(url)} refuses its user a command, key or channel that umbel needs: "
        f"{str(error).removeprefix('NOPERM ').rstrip('.')}. Grant, with UMBEL_KEY_PREFIX for umbel: ACL SETUSER NAME "
        f"{RIGHTS}{' +cluster|slots +cluster|nodes' if is_cluster(url) else ''}"
    )


def refused_credentials(url: str, error: Exception) -> ConfigurationError:
    """What to raise when Redis refuses the credentials."""
    return ConfigurationError(
        f"Redis at {redact_url(url)} refuses the credentials: {str(error).rstrip('.')}. Correct user and password in "
        "UMBEL_REDIS_URL."
    )


def error_of(text: str) -> Exception:
    """An error reply as an exception."""
    if "ACL failure in script" in text:
        return NoPermissionError(text)
    return _REFUSALS.get(text.partition(" ")[0], ResponseError)(text)
