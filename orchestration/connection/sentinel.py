"""Redis Sentinel: a replicated Redis whose primary is looked up each time a connection is made.

`sentinel://user:password@host1:26379,host2:26379,host3:26379/NAME/0`; NAME is the sentinels' name for the primary.
"""

# mypy: disable-error-code="no-untyped-call"
# redis-py is a typed package whose Sentinel carries no annotations.

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from redis import ConnectionPool
from redis import asyncio as redis_asyncio
from redis.asyncio import sentinel as asyncio_sentinel
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from ..model.errors import ConfigurationError

#: Schemes, and whether primary and sentinels speak TLS.
_SCHEMES = {"sentinel": False, "redis+sentinel": False, "rediss+sentinel": True}
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^@/?#]*)@)?(?P<nodes>[^@/?#;]+)/(?P<name>[^/?#]*[^/?#0-9][^/?#]*)"
    r"(?:/(?P<database>\d+))?/?(?:\?(?P<options>[^#]*))?"
)
_PORT = 26379
#: Prefix of the URL's options for the sentinels.
_THEIRS = "sentinel_"
#: How long to wait for one sentinel before asking the next.
_SENTINEL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Sentinels:
    """The sentinels of one primary, and its connection parameters.

    Attributes:
        nodes: Host and port of each sentinel.
        name: Their name for the primary.
        credentials: The primary's, `user:password` as in a URL; empty if there are none.
        database: The primary's.
        has_tls: Whether primary and sentinels speak TLS.
        options: Further redis-py options for connections to the primary, as in a URL.
        credentials_there: Username and password of the sentinels, if they have any.
    """

    nodes: tuple[tuple[str, int], ...]
    name: str
    credentials: str = field(repr=False)
    database: int
    has_tls: bool
    options: str = field(repr=False)
    credentials_there: Mapping[str, str] = field(repr=False)

    @staticmethod
    def of(url: str) -> Sentinels | None:
        """Parse a URL; None if it has another form. kombu's Sentinel URLs, which lack the primary's name, do.

        Raises:
            ValueError: A port is not a number.
        """
        found = _URL.fullmatch(url)
        if found is None or found["scheme"] not in _SCHEMES:
            return None
        options = (found["options"] or "").split("&")
        theirs = parse_qs("&".join(each for each in options if each.startswith(_THEIRS)))
        return Sentinels(
            nodes=nodes_in(found, _PORT),
            name=unquote(found["name"]),
            credentials=found["user"] or "",
            database=int(found["database"] or 0),
            has_tls=_SCHEMES[found["scheme"]],
            options="&".join(each for each in options if not each.startswith(_THEIRS)),
            credentials_there={name.removeprefix(_THEIRS): values[-1] for name, values in theirs.items()},
        )

    @property
    def primary_url(self) -> str:
        """The primary's URL, with placeholders for host and port: the sentinels are asked for these."""
        who = f"{self.credentials}@" if self.credentials else ""
        options = f"?{self.options}" if self.options else ""
        return f"{'rediss' if self.has_tls else 'redis'}://{who}primary:0/{self.database}{options}"

    @property
    def broker_url(self) -> str:
        """The same for kombu, which takes the primary's name and the sentinels' credentials as transport options."""
        who = f"{self.credentials}@" if self.credentials else ""
        return ";".join(f"sentinel://{who}{bracketed(host)}:{port}/{self.database}" for host, port in self.nodes)

    @property
    def transport_options(self) -> dict[str, object]:
        """What kombu needs besides the URL."""
        # No retries: asking blocks the worker's loop, so a sentinel that is down is tried once, then the next one.
        return {"master_name": self.name, "sentinel_kwargs": self._options_there() | {"retry": Retry(NoBackoff(), 0)}}

    @property
    def tls_options(self) -> dict[str, str]:
        """Options of the URL that are about TLS."""
        return {name: values[-1] for name, values in parse_qs(self.options).items() if name.startswith("ssl_")}

    def _options_there(self) -> dict[str, Any]:
        seconds = {"socket_timeout": _SENTINEL_SECONDS, "socket_connect_timeout": _SENTINEL_SECONDS}
        tls: dict[str, Any] = {"ssl": True, **self.tls_options} if self.has_tls else {}
        return {**seconds, **tls, **self.credentials_there}

    def _not_sentinels(self, error: ResponseError) -> Exception:
        if "unknown command" not in str(error):
            return error
        nodes = ", ".join(f"{bracketed(host)}:{port}" for host, port in self.nodes)
        return ConfigurationError(
            f"A server that UMBEL_REDIS_URL or UMBEL_BROKER_URL names as a sentinel ({nodes}) is not one: it does not "
            f"know the command SENTINEL. Write the sentinels' ports, by default {_PORT}; or, for a Redis without "
            "Sentinel, redis://host:6379/0."
        )

    async def primary(self) -> tuple[str, int]:
        """Ask for the primary's current address. Each sentinel gets a new connection, so this works on any loop.

        Raises:
            MasterNotFoundError: None of them knows; it is a redis-py ConnectionError.
            ConfigurationError: A server of the URL is not a sentinel.
        """
        options: dict[str, Any] = {"protocol": 2, "retry": redis_asyncio.retry.Retry(NoBackoff(), 0)}
        asked = asyncio_sentinel.Sentinel(self.nodes, sentinel_kwargs=self._options_there() | options)
        try:
            host, port = await asked.discover_master(self.name)
            return host, port
        except ResponseError as error:
            raise self._not_sentinels(error) from error
        finally:
            for each in asked.sentinels:
                await each.aclose()

    def primary_now(self) -> tuple[str, int]:
        """Like `primary`, but blocking."""
        options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        asked = Sentinel(self.nodes, sentinel_kwargs=self._options_there() | options)
        try:
            host, port = asked.discover_master(self.name)
            return host, port
        except ResponseError as error:
            raise self._not_sentinels(error) from error
        finally:
            for each in asked.sentinels:
                each.close()


def primary_pool(kind: Any, sentinels: Sentinels, **options: Any) -> Any:
    """A redis-py pool, blocking or asyncio, whose new connections lead to the current primary.

    Raises:
        ValueError: An option of the URL cannot be read.
    """
    pool = kind.from_url(sentinels.primary_url, **options)
    if issubclass(kind, ConnectionPool):
        pool.connection_class = _TlsPrimary if sentinels.has_tls else _Primary
    else:
        pool.connection_class = _AsyncTlsPrimary if sentinels.has_tls else _AsyncPrimary
    pool.connection_kwargs["sentinels"] = sentinels
    return pool


class _Blocking:
    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    def connect(self) -> None:
        here: Any = self
        if here._sock is None:
            here.host, here.port = self._sentinels.primary_now()
        super().connect()  # type: ignore[misc]  # of the redis-py class it is mixed with


class _Async:
    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def connect(self) -> None:
        here: Any = self
        if not here.is_connected:
            here.host, here.port = await self._sentinels.primary()
        await super().connect()  # type: ignore[misc]  # of the redis-py class it is mixed with


class _Primary(_Blocking, Connection):
    pass


class _TlsPrimary(_Blocking, SSLConnection):
    pass


class _AsyncPrimary(_Async, redis_asyncio.Connection):
    pass


class _AsyncTlsPrimary(_Async, redis_asyncio.SSLConnection):
    pass


def nodes_in(found: re.Match[str], default_port: int) -> tuple[tuple[str, int], ...]:
    """Hosts and ports in a match of a URL with the groups `nodes` and `user`.

    Raises:
        ValueError: A port is not a number. The message quotes nothing that may be part of a password.
    """
    try:
        return tuple(node_in(text, default_port) for text in found["nodes"].split(","))
    except ValueError:
        if found["user"] is None and "@" in found.string:
            raise ValueError("write / ? # @ % in its password as %2F %3F %23 %40 %25") from None
        raise


def node_in(text: str, default_port: int) -> tuple[str, int]:
    """Parse a host and port as in a URL.

    Raises:
        ValueError: The port is not a number.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    if not port.isdigit():
        raise ValueError(f"the port of {text!r} is not a number")
    return host.strip("[]"), int(port)


def bracketed(host: str) -> str:
    """A host as written in a URL."""
    return f"[{host}]" if ":" in host else quote(host)
