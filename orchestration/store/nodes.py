"""A Redis Cluster as one connection: each request goes to the primary that has its keys.

There is a `Connection` per primary, with its own grouping and retries. A request that it cannot get answered (the node
is lost, was demoted, or has given the slot away) comes back here and is sent again once the nodes have been asked which
primary serves which slots. All keys of a request carry the hash tag of one shard, so they are on one node.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from redis.exceptions import AuthenticationError, ConnectionError, RedisError, ResponseError, TimeoutError

from ..connection.cluster import Address, Cluster, Slots, ask_slots, is_outdated, slot_of
from ..connection.deployment import Deployment
from ..connection.keys import Keys
from ..connection.portal import Portal
from ..connection.redis_client import cut, is_passing, refuse_old_server
from .asks import Command, Request, ScriptCall, packed_script
from .pipeline import FIRST_PAUSE, NO_FUNCTION, Connection
from .scripts import reached, text_of

#: The longest pause, in seconds, between two queries for the slots.
_LONGEST_PAUSE = 0.25
#: A node that does not accept a connection or report the slots within this time, in seconds, counts as lost. Another
#: node may have its slots long before the patience of a request is over.
_CONNECT_SECONDS = 2.0


def connection_to(
    url: str,
    portal: Portal,
    *,
    patience_seconds: float = 5.0,
    silence_seconds: float = 5.0,
    grouped: bool = True,
) -> Connection:
    """A connection to the state Redis, one server or a cluster. Arguments and errors as for `Connection`."""
    cluster = Cluster.of(url)
    if cluster is None:
        return Connection(
            url, portal, patience_seconds=patience_seconds, silence_seconds=silence_seconds, grouped=grouped
        )
    return ClusterConnection(
        url, cluster, portal, patience_seconds=patience_seconds, silence_seconds=silence_seconds, grouped=grouped
    )


@cache
def _touches_other_runs(script: str) -> bool:
    """Whether a script computes names of keys that are not passed to it: those of the next run of a session.

    While a slot is migrated key by key, Redis runs a script if all keys that it is passed are still there; it would
    fail half-way at a computed key. Such a script is therefore passed a key that exists nowhere: then Redis does not
    run it until the slot has moved. (`replay` counts its keys from the end, and is passed more of them than any run
    has.)
    """
    return script != "replay" and "turns" in reached(text_of(script))


def _beside(key: str, name: str) -> str:
    """A key of the same shard."""
    return key[: key.index("}") + 2] + name


class ClusterConnection(Connection):
    """All primaries of a cluster.

    *Promise:* as for `Connection`. While the slot of a shard is moved by `MIGRATE`, requests for that shard wait.
    """

    spans_shards = False

    def __init__(self, url: str, cluster: Cluster, portal: Portal, **options: Any) -> None:
        """Connects when first used; arguments as for `Connection`."""
        super().__init__(cluster.url_of(cluster.nodes[0]), portal, **options)
        self.url = url
        self._cluster, self._options = cluster, options

    @property
    def server_changes(self) -> int:
        return sum(node.server_changes for node in list(self._nodes.values())) if self._loop is not None else 0

    def at(self, address: Address) -> _Node:
        """The node at an address."""
        known = self._nodes.get(address)
        if known is None:
            known = self._nodes[address] = _Node(self, address, self._cluster.url_of(address), **self._options)
        return known

    async def everywhere(self, what: str, *command: Any, patience_seconds: float | None = None) -> list[Any]:
        await self.command(what, "PING", patience_seconds=patience_seconds)  # afterwards the primaries are known
        requests = []
        for slot in {each.primary: each.first for each in self._slots}.values():
            requests.append(self._of_commands(what, (command,), "", patience_seconds))
            requests[-1].slot = slot
        return await self._replies(requests)

    def another(self, client_name: str) -> Any:
        """As in `Connection`, to any node: a message published on one node reaches all."""
        node = self.at(random.choice(self._addresses())) if self._loop is not None else self
        return Connection.another(node, client_name)

    # -- routing ---------------------------------------------------------------------------------------------------

    def _of_call(self, call: ScriptCall[Any], patience: float | None) -> Request:
        if _touches_other_runs(call.script.name):
            call = replace(call, keys=[*call.keys, _beside(call.keys[0], "never")])
        request = super()._of_call(call, patience)
        request.slot = slot_of(call.keys[0])
        return request

    def _of_commands(self, what: str, commands: Sequence[Command], name: str, patience: float | None) -> Request:
        request = super()._of_commands(what, commands, name, patience)
        # The key is the first or second argument. A command without a key may go to any node: here, to that of shard 0.
        words = (word for command in commands for word in command[1:3])
        key = next((word for word in words if isinstance(word, str) and "{" in word), Keys().tag(0))
        request.slot = slot_of(key)
        return request

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._begin(loop)
        self._nodes: dict[Address, _Node] = {}
        self._slots: list[Slots] = []
        self._owners: dict[int, _Node | None] = {}
        self._informed: _Node | None = None
        self._learned_at, self._pause = 0.0, FIRST_PAUSE
        self._is_judged = False

    def _enqueue(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._begin(loop)
        if (node := self._owner(request.slot)) is not None:
            node.take(request)
            return
        self._waiting.append(request)
        if self._serving is None:
            self._begin_serving()

    def _owner(self, slot: int) -> _Node | None:
        if slot not in self._owners:
            found = (each.primary for each in self._slots if each.first <= slot <= each.last)
            self._owners[slot] = next(map(self.at, found), None)
        return self._owners[slot]

    def doubt(self, slot: int, node: _Node, error: Exception) -> None:
        """Look up the primary of a slot before sending further requests for it: a node did not answer."""
        self._owners[slot] = None
        if str(error).startswith("MOVED "):  # that node knows a newer primary
            self._informed = node

    def ask_again(self, request: Request) -> None:
        """Take back a request whose patience is not over, to send it again once the primary of its slot is known."""
        request.with_library = False
        if request.call is not None and request.total > 1:
            request.packed, request.total, request.replies_left = packed_script(request.call), 1, 1
        self._enqueue(request)

    # -- learning the slots ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Learn which primary serves which slots, and send the requests that wait for that."""
        while self._waiting:
            if time.monotonic() - self._learned_at > 2 * self._pause + FIRST_PAUSE:
                self._pause = FIRST_PAUSE
            if self._slots:
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            error: Exception = ConnectionError("no node of the cluster has the slot of its keys.")
            try:
                await self._learn()
                await self._leave_demoted()
            except Exception as failure:
                error = failure
            self._learned_at = time.monotonic()
            waiting, self._waiting = self._waiting, deque()
            for request in waiting:
                if (node := self._owner(request.slot)) is not None:
                    node.take(request)
                elif not self._settle(request, error, self._pause):
                    self._waiting.append(request)
            if self._waiting and not self._slots:
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._serving = None

    async def _learn(self) -> None:
        """Ask one node after the other until one answers, and check that this process belongs to the deployment.

        An answer that is older than what is known is accepted only if no other node has a newer one: then it is another
        cluster at the same addresses.

        Raises:
            ConfigurationError: It is not a cluster, or its deployment has other values.
            RedisError, OSError: None answered.
        """
        error: Exception = ConnectionError("no node of the cluster answers.")
        outdated: list[Slots] = []
        nodes = list(map(self.at, self._addresses()))
        random.shuffle(nodes)
        if self._informed is not None:
            nodes.insert(0, self._informed)
            self._informed = None
        for node in nodes:
            connection = node.another("")
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await connection.connect()
                    slots = await ask_slots(connection, node.address, self.url)
            except AuthenticationError:
                raise
            except (ConnectionError, TimeoutError, ResponseError) as failure:
                error = failure
                continue
            except OSError:
                host, port = node.address
                error = ConnectionError(f"{host}:{port} did not say within {_CONNECT_SECONDS:g} s who has which slots.")
                continue
            finally:
                await cut(connection)
            if not is_outdated(slots, self._slots):
                await self._believe(slots)
                return
            outdated = slots
        if not outdated:
            raise error
        await self._believe(outdated)

    async def _believe(self, slots: list[Slots]) -> None:
        if self.deployment is not None:
            await self._judge_deployment(self.deployment, slots)
        self._slots = slots
        self._owners.clear()

    async def _judge_deployment(self, deployment: Deployment, slots: Sequence[Slots]) -> None:
        record = slot_of(deployment.record)
        primary = next((each.primary for each in slots if each.first <= record <= each.last), None)
        if primary is None:
            raise ConnectionError("no node of the cluster has the slot of the deployment's record.")
        connection = self.at(primary).another("")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await connection.connect()
                await deployment.judge(connection, self.url)
            self._is_judged = True
        except (RedisError, OSError):
            if not self._is_judged:
                raise
        finally:
            await cut(connection)

    def _addresses(self) -> list[Address]:
        return list({each.primary: None for each in self._slots} | dict.fromkeys(self._cluster.nodes))

    async def _leave_demoted(self) -> None:
        """Take back the requests of nodes that no longer have slots."""
        primaries = {each.primary for each in self._slots}
        for address, node in list(self._nodes.items()):
            if address not in primaries:
                self._waiting.extend(await node.leave())

    async def _close(self) -> None:
        await super()._close()
        for node in self._nodes.values():
            await node.close()


class _Node(Connection):
    """One primary."""

    def __init__(self, cluster: ClusterConnection, address: Address, url: str, **options: Any) -> None:
        super().__init__(url, cluster.portal, **options)
        self.address, self.url = address, cluster.url  # errors name the cluster
        self._pool.connection_kwargs["socket_connect_timeout"] = _CONNECT_SECONDS
        self._of = cluster

    def take(self, request: Request) -> None:
        """Send a request to this node."""
        super()._enqueue(request)

    async def leave(self) -> list[Request]:
        """Close the connection; returns the unanswered requests, which may be sent elsewhere."""
        if self._loop is None:
            return []
        if self._transport is not None:
            self._transport.abort()  # no more replies are read
        requests, self._asked, self._waiting = [*self._asked, *self._waiting], deque(), deque()
        await self._close()
        return requests

    async def _judge(self, connection: Any) -> None:
        self._meet(await refuse_old_server(connection, self.url, in_cluster=True))

    def _settle(self, request: Request, reply: Any, pause: float = FIRST_PAUSE) -> bool:
        if isinstance(reply, Exception) and is_passing(reply):
            self._of.doubt(request.slot, self, reply)
        if super()._settle(request, reply, pause):
            return True
        if request.with_library and str(reply).startswith(NO_FUNCTION):
            return False
        self._of.ask_again(request)
        return True
