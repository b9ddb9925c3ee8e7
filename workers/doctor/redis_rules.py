"""Whether a Redis server is one that state can be entrusted to, judged by what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator

from ..embedded.binary import OLDEST_VERSION
from .findings import Finding
from .redis_info import Server

#: Releases that first had the fixes of October 2025 for Lua (CVE-2025-49844, -46817, -46818, -46819), per series. A
#: series that is older than all of them, or in between and not named, never had them.
_LUA_FIXES = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4), (9, 0, 0)),
}

#: Part of `maxmemory` in use from which on it is worth a warning.
_NEARLY_FULL = 0.8


def judge_server(server: Server, *, is_private: bool) -> Iterator[Finding]:
    """What is to be said of a server that keeps the state.

    Args:
        server: The server.
        is_private: It is umbel's own embedded one, which nobody else has the password of.
    """
    yield from _version(server, is_private=is_private)
    yield from what_loses_data(server)
    yield from _access(server)
    if not is_private:
        yield from _limit(server)


def what_loses_data(server: Server) -> Iterator[Finding]:
    """Of that, what decides whether acknowledged changes stay."""
    yield from _role(server)
    yield from _durability(server)
    yield from _replicas(server)
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
    if server.is_cluster:
        yield Finding(
            "danger",
            "role",
            "The server is a node of a Redis Cluster, whose other nodes umbel does not ask.",
            "Point UMBEL_REDIS_URL at a server that is no cluster.",
        )


def _durability(server: Server) -> Iterator[Finding]:
    if not server.appends:
        lost = {
            None: "loses runs that were acknowledged",
            "": "loses every run: it writes no snapshots either (save is empty)",
        }.get(server.saves, "loses what was acknowledged since its last snapshot")
        yield Finding(
            "danger",
            "durability",
            f"The append-only file is off: a restart of the server {lost}.",
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
    if server.skips_fsync:
        yield Finding(
            "warning",
            "durability",
            "no-appendfsync-on-rewrite is `yes`: a power cut while the log is rewritten may take half a minute of "
            "acknowledged changes with it, whatever appendfsync says.",
            "Set `no-appendfsync-on-rewrite no`.",
        )
    if not server.loads_cut_log:
        yield Finding(
            "warning",
            "durability",
            "aof-load-truncated is `no`: after a power cut the server may not start before somebody has repaired its "
            "log by hand.",
            "Set `aof-load-truncated yes`: the log then ends at its last whole transaction.",
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


def _replicas(server: Server) -> Iterator[Finding]:
    if server.replicas and server.min_replicas == 0:
        yield Finding(
            "warning",
            "replicas",
            f"The server has {server.replicas} replicas and takes writes without them (min-replicas-to-write is 0): "
            "cut off from them it goes on acknowledging what a failover then throws away, without a bound.",
            "Set `min-replicas-to-write 1` and `min-replicas-max-lag 10`: it then stops after ten seconds.",
        )
    elif server.replicas:
        yield Finding(
            "note",
            "replicas",
            f"{server.replicas} replicas follow, a moment behind: a failover may lose what was acknowledged last.",
        )


def _access(server: Server) -> Iterator[Finding]:
    if server.has_password is not False or _is_loopback(server.bind):
        return
    if server.is_protected:
        yield Finding(
            "note",
            "access",
            "The server has no password; in its protected mode it answers nobody but its own machine.",
            "Before other machines are to reach it, set `requirepass` or ACL users.",
        )
    elif server.is_protected is not None:
        yield Finding(
            "danger",
            "access",
            "The server has no password, no protected mode, and listens on more than the loopback interface: whoever "
            "reaches it owns the workflows, and the machine if its Lua is not patched.",
            "Set `requirepass` or ACL users, `protected-mode yes`, and `bind` to a private address.",
        )


def _is_loopback(bind: str | None) -> bool:
    addresses = [address.lstrip("-") for address in (bind or "").split()]
    return bool(addresses) and all(each.startswith("127.") or each in ("::1", "localhost") for each in addresses)


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


def _limit(server: Server) -> Iterator[Finding]:
    if not server.memory_limit and server.policy in (None, "noeviction"):
        yield Finding(
            "note",
            "limit",
            "maxmemory is not set: a server that outgrows its machine is killed by the kernel, where one with a limit "
            "only refuses writes until there is room.",
            "Set `maxmemory` to what the machine can spare, for its log's rewriting too.",
        )
