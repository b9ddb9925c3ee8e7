"""Redis Cluster: its nodes in a URL, the slot of a key, and which primary has which slots.

`redis+cluster://user:password@host1:6379,host2:6379/0`. Any node knows the others; more than one is named in case that
one is down. `rediss+cluster://` speaks TLS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ConnectionError, ResponseError

from ..model.errors import ConfigurationError
from .keys import MAX_SHARDS
from .sentinel import bracketed, nodes_in
from .settings import redact_url

#: Schemes, and whether all nodes speak TLS.
_SCHEMES = {"redis+cluster": False, "rediss+cluster": True}
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^@/?#]*)@)?(?P<nodes>[^@/?#;]+)(?:/(?P<database>\d*))?/?(?:\?(?P<options>[^#]*))?"
)
_PORT = 6379

#: Host and port of a node.
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Cluster:
    """How the nodes of a cluster are connected to.

    Attributes:
        nodes: Host and port of the nodes that the URL names.
        credentials: Of all nodes, `user:password` as in a URL; empty without.
        has_tls: Whether they speak TLS.
        options: Further options of redis-py's, as in a URL.
    """

    nodes: tuple[Address, ...]
    credentials: str = field(repr=False)
    has_tls: bool
    options: str = field(repr=False)

    @staticmethod
    def of(url: str) -> Cluster | None:
        """What a URL says; None if it is not that of a cluster.

        Raises:
            ConfigurationError: It is meant to be one, and cannot be read; the text shows no password.
        """
        if not is_cluster(url):
            return None
        found = _URL.fullmatch(url)
        reason = "expected redis+cluster://user:password@host1:6379,host2:6379/0"
        if found is not None and int(found["database"] or 0) == 0:
            try:
                nodes = nodes_in(found, _PORT)
            except ValueError as error:
                reason = str(error)
            else:
                return Cluster(nodes, found["user"] or "", _SCHEMES[found["scheme"]], found["options"] or "")
        elif found is not None:
            reason = "a cluster has database 0 alone; several deployments on it have different UMBEL_KEY_PREFIXes"
        raise ConfigurationError(
            f"UMBEL_REDIS_URL is {redact_url(url)!r}, which is not the URL of a Redis Cluster ({reason})."
        )

    def url_of(self, address: Address) -> str:
        """How one node is connected to."""
        host, port = address
        who = f"{self.credentials}@" if self.credentials else ""
        options = f"?{self.options}" if self.options else ""
        return f"{'rediss' if self.has_tls else 'redis'}://{who}{bracketed(host)}:{port}/0{options}"


@dataclass(frozen=True, slots=True)
class Slots:
    """A range of slots and who has it.

    Attributes:
        first, last: Of the range, both included.
        primary: The node that takes their commands.
    """

    first: int
    last: int
    primary: Address


def is_cluster(url: str) -> bool:
    """Whether this is meant to be the URL of a cluster."""
    return url.partition("://")[0] in _SCHEMES


def slot_of(key: str) -> int:
    """The slot of one of our keys or channels, which all have a hash tag."""
    return _slot_of_tag(key.partition("{")[2].partition("}")[0])


@lru_cache(4 * MAX_SHARDS)
def _slot_of_tag(tag: str) -> int:
    return key_slot(tag.encode())


async def ask_slots(connection: Any, address: Address, url: str) -> list[Slots]:
    """Ask a node who has which slots.

    Args:
        connection: A connection of redis-py's that has just been made.
        address: Where it leads.
        url: Of the cluster.

    Raises:
        ConfigurationError: The server is not a node of a cluster.
        ConnectionError, TimeoutError: It did not answer, or does not know.
        ResponseError: It refuses the question.
    """
    await connection.send_command("CLUSTER", "SLOTS")
    try:
        return slots_in(await connection.read_response(disable_decoding=True), address)
    except ResponseError as error:
        raise refusal(error, url) from error


def refusal(error: ResponseError, url: str) -> Exception:
    """What a refused `CLUSTER SLOTS` means."""
    if "cluster support disabled" not in str(error):
        return error
    return ConfigurationError(
        f"UMBEL_REDIS_URL is {redact_url(url)!r}, and the server there is not a node of a Redis Cluster. Write "
        "redis:// for a single server."
    )


def slots_in(reply: list[Any], address: Address) -> list[Slots]:
    """The reply to `CLUSTER SLOTS`. A node that does not know its own host means the one it was asked at.

    Raises:
        ConnectionError: No node has any slot.
    """
    found = [
        Slots(first, last, (host.decode() if host else address[0], port)) for first, last, (host, port, *_), *_ in reply
    ]
    if not found:
        raise ConnectionError("No node of the cluster has a slot.")
    return found
