"""Whether a Redis server is one that state can be entrusted to. Reads only; works where CONFIG is forbidden."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from ..orchestration.connection import Client
from .findings import Finding
from .redis_binary import OLDEST_VERSION

#: Releases that first had the fixes of October 2025 for Lua (CVE-2025-49844, -46817, -46818, -46819), per series. A
#: series that is older than all of them, or in between and not named, never had them.
_LUA_FIXES = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4), (9, 0, 0)),
}

#: Part of `maxmemory` in use from which on it is worth a warning.
_NEARLY_FULL = 0.8


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself; None is what it does not say."""

    product: str
    version: tuple[int, ...]
    role: str
    appends: bool
    append_failed: bool
    appendfsync: str | None
    policy: str | None
    memory: int
    memory_limit: int

    @property
    def dotted(self) -> str:
        """The version as text."""
        return ".".join(map(str, self.version))


def ask_server(client: Client) -> Server:
    """Ask a server about itself.

    Raises:
        RedisError: It does not answer.
    """
    info: dict[str, Any] = client.info("everything")
    is_valkey = "valkey_version" in info
    version = str(info["valkey_version"] if is_valkey else info["redis_version"])
    appendfsync = None
    with contextlib.suppress(RedisError):  # hosted servers forbid CONFIG
        found = client.config_get("appendfsync")
        appendfsync = next((_text(value) for value in found.values()), None)
    return Server(
        product="Valkey" if is_valkey else "Redis",
        version=tuple(int(part) for part in version.split(".") if part.isdigit()),
        role=str(info.get("role", "master")),
        appends=bool(info.get("aof_enabled")),
        append_failed="err" in (info.get("aof_last_write_status"), info.get("aof_last_bgrewrite_status")),
        appendfsync=appendfsync,
        policy=info.get("maxmemory_policy"),
        memory=int(info.get("used_memory", 0)),
        memory_limit=int(info.get("maxmemory", 0)),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def judge_server(server: Server, *, is_private: bool) -> Iterator[Finding]:
    """What is to be said of a server that keeps the state.

    Args:
        server: The server.
        is_private: It is umbel's own embedded one, which nobody else has the password of.
    """
    yield from _version(server, is_private=is_private)
    yield from _role(server)
    yield from _durability(server)
    yield from _memory(server)


def _version(server: Server, *, is_private: bool) -> Iterator[Finding]:
    oldest = ".".join(map(str, OLDEST_VERSION))
    if server.version < OLDEST_VERSION:
        yield Finding(
            "danger",
            "version",
            f"{server.product} {server.dotted} is too old: umbel needs {oldest} or newer.",
            "Upgrade it.",
        )
    elif not is_private and not has_lua_fixes(server.product, server.version):
        yield Finding(
            "warning",
            "version",
            f"{server.product} {server.dotted} is from before the Lua fixes of October 2025 (CVE-2025-49844 and "
            f"others): who may run scripts can break out of them.",
            f"Upgrade to {_fixed_in(server)} or newer, unless your distribution has patched this one; and let only "
            f"umbel's processes reach it.",
        )
    else:
        yield Finding("fine", "version", f"{server.product} {server.dotted}")


def has_lua_fixes(product: str, version: tuple[int, ...]) -> bool:
    """Whether a release has the Lua fixes of October 2025."""
    fixes = _LUA_FIXES[product]
    same_series = [fix for fix in fixes if fix[:2] == version[:2]]
    return version >= same_series[0] if same_series else version > fixes[-1]


def _fixed_in(server: Server) -> str:
    fixes = _LUA_FIXES[server.product]
    return ".".join(map(str, next((fix for fix in fixes if fix >= server.version), fixes[-1])))


def _role(server: Server) -> Iterator[Finding]:
    if server.role != "master":
        yield Finding(
            "danger",
            "role",
            f"The server is a {server.role}: it takes no writes, and what it is ahead of others is thrown away.",
            "Point UMBEL_REDIS_URL at the primary.",
        )


def _durability(server: Server) -> Iterator[Finding]:
    if not server.appends:
        yield Finding(
            "danger",
            "durability",
            "The append-only file is off: a restart of the server loses runs that were acknowledged.",
            "Set `appendonly yes` in its configuration (CONFIG SET appendonly yes does it at once, until a restart).",
        )
        return
    if server.append_failed:
        yield Finding(
            "danger",
            "durability",
            "The server could not write its append-only file lately.",
            "Look into its log; most often the disk is full.",
        )
    if server.appendfsync == "no":
        yield Finding(
            "warning",
            "durability",
            "appendfsync is `no`: a power cut may take half a minute of acknowledged changes with it.",
            "Set `appendfsync everysec`, or `always` where nothing acknowledged may be lost.",
        )
    else:
        bounds = {
            "always": "appendfsync always: nothing acknowledged is lost",
            "everysec": "appendfsync everysec: a crash of the server may take the last two seconds with it",
        }
        yield Finding(
            "fine",
            "durability",
            bounds.get(server.appendfsync or "", "append-only file on; the server does not tell its appendfsync"),
        )


def _memory(server: Server) -> Iterator[Finding]:
    if server.policy not in (None, "noeviction"):
        is_limited = server.memory_limit > 0
        yield Finding(
            "danger" if is_limited else "warning",
            "memory",
            f"maxmemory-policy is {server.policy}: "
            + (
                "a full server throws runs away."
                if is_limited
                else "a full server would throw runs away, if it had a limit."
            ),
            "Set `maxmemory-policy noeviction`.",
        )
    elif server.memory_limit and server.memory > _NEARLY_FULL * server.memory_limit:
        used = round(100 * server.memory / server.memory_limit)
        yield Finding(
            "warning",
            "memory",
            f"{used} % of maxmemory is in use; at 100 % nothing goes on until there is room.",
            "Raise maxmemory, or lower UMBEL_RETENTION_SECONDS.",
        )
    else:
        yield Finding("fine", "memory", f"{server.memory / 2**20:.0f} MiB in use, nothing is evicted")
