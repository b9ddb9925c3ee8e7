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
    """Connection parameters of a cluster's nodes.

    Attributes:
        nodes: Host and port of the nodes that the URL names.
        credentials: `user:password` as in a URL, the same for all nodes; empty if there are none.
        has_tls: Whether they speak TLS.
        options: Further redis-py options, as in a URL.
    """

    nodes: tuple[Address, ...]
    credentials: str = field(repr=False)
    has_tls: bool
    options: str = field(repr=False)

    @staticmethod
    def of(url: str) -> Cluster | None:
        """Parse a URL; None if its scheme is not that of a cluster.

        Raises:
            ConfigurationError: The scheme is that of a cluster, but the URL is invalid. The message shows no password.
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
        """The URL of one node."""
        host, port = address
        who = f"{self.credentials}@" if self.credentials else ""
        options = f"?{self.options}" if self.options else ""
        return f"{'rediss' if self.has_tls else 'redis'}://{who}{bracketed(host)}:{port}/0{options}"


@dataclass(frozen=True, slots=True)
class Slots:
    """A range of slots and the node that serves it.

    Attributes:
        first, last: Bounds of the range, both included.
        primary: The node that executes commands for these slots.
        epoch: Grows whenever the range gets another primary; 0 if the node that was asked does not report it.
    """

    first: int
    last: int
    primary: Address
    epoch: int = 0


def is_cluster(url: str) -> bool:
    """Whether the URL's scheme is that of a cluster."""
    return url.partition("://")[0] in _SCHEMES


def slot_of(key: str) -> int:
    """The slot of one of our keys or channels, which all have a hash tag."""
    return _slot_of_tag(key.partition("{")[2].partition("}")[0])


@lru_cache(4 * MAX_SHARDS)
def _slot_of_tag(tag: str) -> int:
    return key_slot(tag.encode())


async def ask_slots(connection: Any, address: Address, url: str) -> list[Slots]:
    """Ask a node which primary serves which slots, and for their epochs.

    Args:
        connection: A redis-py connection that has just been made.
        address: The node it is connected to.
        url: The cluster's URL, for error messages.

    Raises:
        ConfigurationError: The server is not a node of a cluster.
        ConnectionError, TimeoutError: The node did not answer, or knows of no slots.
        ResponseError: The node refuses the command.
    """
    # NODES before SLOTS: if the node learns of a new primary in between, it reports the new primary with an epoch that
    # is too low. In the other order it could report the old primary with an epoch that is too high.
    await connection.send_command("CLUSTER", "NODES")
    try:
        epochs = epochs_in(await connection.read_response(disable_decoding=True))
    except ResponseError:  # the ACL forbids the command
        epochs = {}
    await connection.send_command("CLUSTER", "SLOTS")
    try:
        return slots_in(await connection.read_response(disable_decoding=True), address, epochs)
    except ResponseError as error:
        raise refusal(error, url) from error


def refusal(error: ResponseError, url: str) -> Exception:
    """The exception to raise for a refused `CLUSTER SLOTS`."""
    if "cluster support disabled" not in str(error):
        return error
    return ConfigurationError(
        f"UMBEL_REDIS_URL is {redact_url(url)!r}, and the server there is not a node of a Redis Cluster. Write "
        "redis:// for a single server."
    )


def epochs_in(reply: bytes) -> dict[bytes, int]:
    """Parse the reply to `CLUSTER NODES` into node id -> epoch of its slots."""
    return {words[0]: int(words[6]) for words in map(bytes.split, reply.splitlines())}


def slots_in(reply: list[Any], address: Address, epochs: Mapping[bytes, int] | None = None) -> list[Slots]:
    """Parse the reply to `CLUSTER SLOTS`. An entry without a host means the node that was asked.

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
    """Whether a node's answer is older than what is known: a slot has had another primary since.

    A primary that hung and was replaced meanwhile believes for a moment that it still has its slots. It answers
    commands for them without the writes that its successor has accepted.
    """
    return any(
        said.epoch < it.epoch and said.first <= it.last and it.first <= said.last for said in answer for it in known
    )
