"""Redis Cluster: its nodes in a URL, the slot of a key, and which primary has which slots.

`redis+cluster://user:password@host1:6379,host2:6379/0`. Any node knows the others; more than one is named in case that
one is down. `rediss+cluster://` speaks TLS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
        epoch: Grows whenever the slots of a range get another primary; 0 if the node that was asked does not say.
    """

    first: int
    last: int
    primary: Address
    epoch: int = 0


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
    """Ask a node who has which slots, and since when.

    Args:
        connection: A connection of redis-py's that has just been made.
        address: Where it leads.
        url: Of the cluster.

    Raises:
        ConfigurationError: The server is not a node of a cluster.
        ConnectionError, TimeoutError: It did not answer, or does not know.
        ResponseError: It refuses the question.
    """
    # In this order: should the node learn in between who has its slots now, it names the new one with an epoch that is
    # too low, never the old one with one that is too high.
    await connection.send_command("CLUSTER", "NODES")
    try:
        epochs = epochs_in(await connection.read_response(disable_decoding=True))
    except ResponseError:  # no right to ask for that
        epochs = {}
    await connection.send_command("CLUSTER", "SLOTS")
    try:
        return slots_in(await connection.read_response(disable_decoding=True), address, epochs)
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


def epochs_in(reply: bytes) -> dict[bytes, int]:
    """The reply to `CLUSTER NODES`: id of each node -> epoch of its slots."""
    return {words[0]: int(words[6]) for words in map(bytes.split, reply.splitlines())}


def slots_in(reply: list[Any], address: Address, epochs: Mapping[bytes, int] | None = None) -> list[Slots]:
    """The reply to `CLUSTER SLOTS`. A node that does not know its own host means the one it was asked at.

    Raises:
        ConnectionError: No node has any slot.
    """
    known = epochs or {}
    found = [
        Slots(first, last, (host.decode() if host else address[0], port), known.get(name, 0))
        for first, last, (host, port, name, *_), *_ in reply
    ]
    if not found:
        raise ConnectionError("No node of the cluster has a slot.")
    return found


def is_outdated(answer: Sequence[Slots], known: Sequence[Slots]) -> bool:
    """Whether a node's answer is of an earlier time than what is known: a slot has had another primary since.

    A primary that stood still and was replaced meanwhile believes for a moment that it still has its slots, and answers
    commands for them: without what was written at its successor.
    """
    return any(
        said.epoch < it.epoch and said.first <= it.last and it.first <= said.last for said in answer for it in known
    )
