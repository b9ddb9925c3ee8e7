"""What a Redis server reports about itself. Reads only; works even if CONFIG and ACL are forbidden."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import RedisError, TimeoutError

from ...orchestration.connection.cluster import is_cluster
from ...orchestration.connection.redis_client import Client, connect_each
from ...orchestration.model.releases import Release

#: Settings that are read.
_ASKED = (
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "aof-load-truncated",
    "save",
    "bind",
    "protected-mode",
    "min-replicas-to-write",
    "cluster-node-timeout",
    "cluster-require-full-coverage",
)


@dataclass(frozen=True, slots=True)
class RedisInfo:
    """What a server reports about itself; None for what it does not report.

    Attributes:
        release: Its product and version.
        replicas: How many replicas are connected to it.
        min_replicas: How many replicas must keep up for it to accept writes.
        saves: When it writes snapshots; empty means never.
        is_cluster: Whether it is a node of a Redis Cluster although the URL names a single server.
        has_password: Whether clients have to log in.
        bind: Addresses it listens on; empty or `*` means all.
        is_protected: Whether it answers only clients on its own machine while it has no password.
        skips_fsync: Whether it ignores `appendfsync` while it rewrites its log.
        loads_cut_log: Whether it starts on a log whose end is missing, as after a power cut.
        node_timeout_seconds: After how long without an answer its cluster considers a node failed.
        covers_all: Whether all nodes of its cluster refuse everything while a primary is down without a replica.
        memory: Bytes in use.
        memory_limit: Its `maxmemory` in bytes; 0 means none.
        is_loading: Whether it is still loading its data. Until it has, it reports its append-only file as off.
        uncounted: Bytes in use that do not count towards that limit: buffers of replicas and of the log.
    """

    release: Release | None
    role: str
    appends: bool
    append_failed: bool
    appendfsync: str | None
    policy: str | None
    memory: int
    memory_limit: int
    replicas: int = 0
    min_replicas: int | None = None
    saves: str | None = None
    is_cluster: bool = False
    has_password: bool | None = None
    bind: str | None = None
    is_protected: bool | None = None
    skips_fsync: bool = False
    loads_cut_log: bool = True
    node_timeout_seconds: float | None = None
    covers_all: bool = False
    uncounted: int = 0
    is_loading: bool = False

    @property
    def counted_memory(self) -> int:
        """Bytes in use that count towards `memory_limit`."""
        return self.memory - self.uncounted

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return 0 < self.memory_limit <= self.counted_memory


def ask_servers(url: str) -> dict[str, RedisInfo]:
    """Ask the state Redis about itself. Keys of the result: an empty name, or host:port of each primary of a cluster.

    Raises:
        ConfigurationError: The URL is not a Redis URL.
        RedisError: A server does not answer.
    """
    found: dict[str, RedisInfo] = {}
    for client in connect_each(url):
        with client:
            if is_cluster(url):
                about = client.connection_pool.connection_kwargs
                name = f"{about['host']}:{about['port']}"
                try:
                    found[name] = replace(ask_server(client), is_cluster=False)
                except TimeoutError as error:
                    raise TimeoutError(f"{name} is silent ({str(error).rstrip('.')})") from error
            else:
                found[""] = ask_server(client)
    return found


def ask_server(client: Client) -> RedisInfo:
    """Ask a server about itself.

    Raises:
        RedisError: It does not answer.
    """
    info: dict[str, Any] = client.info("everything")
    reported = _configuration(client)
    min_replicas, node_timeout = reported.get("min-replicas-to-write"), reported.get("cluster-node-timeout")
    protected = reported.get("protected-mode")
    return RedisInfo(
        release=Release.of_info(info),
        role=str(info.get("role", "master")),
        appends=bool(info.get("aof_enabled")),
        append_failed="err" in (info.get("aof_last_write_status"), info.get("aof_last_bgrewrite_status")),
        appendfsync=reported.get("appendfsync"),
        policy=info.get("maxmemory_policy"),
        memory=int(info.get("used_memory", 0)),
        memory_limit=int(info.get("maxmemory", 0)),
        replicas=int(info.get("connected_slaves", 0)),
        min_replicas=None if min_replicas is None else int(min_replicas),
        saves=reported.get("save"),
        is_cluster=bool(info.get("cluster_enabled")),
        has_password=_has_password(client),
        bind=reported.get("bind"),
        is_protected=None if protected is None else protected == "yes",
        skips_fsync=reported.get("no-appendfsync-on-rewrite") == "yes",
        loads_cut_log=reported.get("aof-load-truncated") != "no",
        node_timeout_seconds=None if node_timeout is None else int(node_timeout) / 1000,
        is_loading=bool(info.get("loading")),
        uncounted=int(info.get("mem_not_counted_for_evict", 0)),
        covers_all=reported.get("cluster-require-full-coverage") == "yes",
    )


def _configuration(client: Client) -> dict[str, str]:
    reported: dict[str, str] = {}
    with contextlib.suppress(RedisError):  # hosted servers forbid CONFIG
        for name in _ASKED:
            found = client.config_get(name)
            reported |= {_text(key): _text(value) for key, value in found.items()}
    return reported


def _has_password(client: Client) -> bool | None:
    try:
        user = client.acl_getuser("default")
    except RedisError:
        return None
    flags = {_text(flag) for flag in (user or {}).get("flags", ())}
    return "off" in flags or "nopass" not in flags


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
