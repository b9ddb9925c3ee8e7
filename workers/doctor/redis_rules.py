"""Whether a Redis server is suitable for the state, judged by what it reports about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ...orchestration.model.releases import OLDEST_RELEASES, Release
from .redis_info import RedisInfo

Level = Literal["fine", "note", "warning", "danger"]

#: First releases with the Lua fixes of October 2025 (CVE-2025-49844, -46817, -46818, -46819), per series. Series that
#: are older than these, or in between and not listed, never got them.
_LUA_FIXES = {
    "Redis": ((7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4), (9, 0, 0)),
}

#: Approximate time that a cluster takes to promote a replica once its nodes agree that the primary has failed.
_PROMOTION_SECONDS = 2.0

#: Fraction of `maxmemory` in use above which there is a warning.
_NEARLY_FULL = 0.8


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of an examination.

    Attributes:
        level: `danger` loses data or stops everything; `warning` may do harm later.
        about: What was examined, in a word or two.
        text: What was found.
        fix: What to do about it; empty if there is nothing to do.
    """

    level: Level
    about: str
    text: str
    fix: str = ""

    def at(self, name: str) -> Finding:
        """The finding for a named node of a cluster: unless it is `fine`, its text begins with the name, if any."""
        return replace(self, text=f"{name}: {self.text}") if name and self.level != "fine" else self


def judge_server(server: RedisInfo, *, is_private: bool) -> Iterator[Finding]:
    """Judge a server that keeps the state.

    Args:
        server: The server.
        is_private: Whether it is umbel's embedded one, whose password nobody else has.
    """
    yield from _version(server, is_private=is_private)
    yield from what_loses_data(server)
    yield from _access(server)
    if not is_private:
        yield from _limit(server)


def judge_node(server: RedisInfo, *, lease_seconds: float) -> Iterator[Finding]:
    """Judge the cluster settings of a primary.

    Args:
        server: The primary.
        lease_seconds: How long a lease of the deployment lasts.
    """
    timeout = server.node_timeout_seconds
    if timeout is not None and timeout + _PROMOTION_SECONDS >= lease_seconds:
        yield Finding(
            "warning",
            "failover",
            f"A failover takes cluster-node-timeout, {timeout:g} s, and about {_PROMOTION_SECONDS:g} s more; a lease "
            f"lasts {lease_seconds:g} s. What is executed in the shards of a failed primary is executed again.",
            "Set `cluster-node-timeout 5000`, or a longer UMBEL_LEASE_SECONDS.",
        )
    if server.covers_all:
        yield Finding(
            "note",
            "failover",
            "cluster-require-full-coverage is `yes`: while a primary and its replicas are away, all nodes refuse "
            "everything.",
            "With `cluster-require-full-coverage no` the shards of the other primaries continue.",
        )


def what_loses_data(server: RedisInfo) -> Iterator[Finding]:
    """The findings that decide whether acknowledged changes are kept."""
    yield from _role(server)
    yield from _durability(server)
    yield from _replicas(server)
    yield from _memory(server)


def _version(server: RedisInfo, *, is_private: bool) -> Iterator[Finding]:
    release = server.release
    if release is None:
        yield Finding(
            "note", "version", f"The server does not report its release; {OLDEST_RELEASES}, or newer, is needed."
        )
    elif not release.is_new_enough:
        yield Finding(
            "danger",
            "version",
            f"{release} is too old: umbel needs {OLDEST_RELEASES}, or newer.",
            "Upgrade it, or point UMBEL_REDIS_URL at a newer server.",
        )
    elif not is_private and not has_lua_fixes(release):
        yield Finding(
            "warning",
            "version",
            f"{release} lacks the Lua fixes of October 2025 (CVE-2025-49844 and others): "
            f"a client that may run scripts can break out of them.",
            f"Upgrade to {_fixed_in(release)} or newer, unless your distribution has patched this one; and let only "
            f"umbel's processes reach it.",
        )
    else:
        yield Finding("fine", "version", str(release))


def has_lua_fixes(release: Release) -> bool:
    """Whether a release has the Lua fixes of October 2025."""
    fixes = _LUA_FIXES[release.product]
    same_series = [fix for fix in fixes if fix[:2] == release.version[:2]]
    return release.version >= same_series[0] if same_series else release.version > fixes[-1]


def _fixed_in(release: Release) -> str:
    fixes = _LUA_FIXES[release.product]
    return ".".join(map(str, next((fix for fix in fixes if fix >= release.version), fixes[-1])))


def _role(server: RedisInfo) -> Iterator[Finding]:
    if server.role != "master":
        yield Finding(
            "danger",
            "role",
            f"The server is a {server.role}: it takes no writes of its own.",
            "Point UMBEL_REDIS_URL at the primary.",
        )
    if server.is_cluster:
        yield Finding(
            "danger",
            "role",
            "The server is a node of a Redis Cluster, and UMBEL_REDIS_URL names it as a single server.",
            "Write redis+cluster:// in UMBEL_REDIS_URL, and set UMBEL_BROKER_URL.",
        )


def _durability(server: RedisInfo) -> Iterator[Finding]:
    if server.is_loading:
        text = "The server is loading its data, and does not say until then whether it appends to a file."
        yield Finding("note", "durability", text, "Examine it again when it has loaded.")
        return
    if not server.appends:
        lost = {
            None: "loses runs that were acknowledged",
            "": "loses every run: it writes no snapshots either (save is empty)",
        }.get(server.saves, "loses what was acknowledged since its last snapshot")
        yield Finding(
            "danger",
            "durability",
            f"The append-only file is off: a restart of the server {lost}.",
            "Set `appendonly yes` in its configuration (CONFIG SET appendonly yes works at once, until a restart).",
        )
        return
    if server.append_failed:
        yield Finding(
            "danger",
            "durability",
            "The server could not write its append-only file recently.",
            "See its log; most often the disk is full.",
        )
    if server.skips_fsync:
        yield Finding(
            "warning",
            "durability",
            "no-appendfsync-on-rewrite is `yes`: a power cut while the log is rewritten may take half a minute of "
            "acknowledged changes with it, regardless of appendfsync.",
            "Set `no-appendfsync-on-rewrite no`.",
        )
    if not server.loads_cut_log:
        yield Finding(
            "warning",
            "durability",
            "aof-load-truncated is `no`: after a power cut the server may not start until its log has been repaired "
            "by hand.",
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
            bounds.get(server.appendfsync or "", "append-only file on; the server does not report its appendfsync"),
        )


def _replicas(server: RedisInfo) -> Iterator[Finding]:
    if server.replicas and server.min_replicas == 0:
        yield Finding(
            "warning",
            "replicas",
            f"The server has {server.replicas} replicas and takes writes without them (min-replicas-to-write is 0): "
            "if it loses them, it keeps acknowledging changes that a failover then discards, without a bound.",
            "Set `min-replicas-to-write 1` and `min-replicas-max-lag 10`: it then stops after ten seconds.",
        )
    elif server.replicas:
        yield Finding(
            "note",
            "replicas",
            f"{server.replicas} replicas follow with a short delay: a failover may lose the changes acknowledged last.",
        )


def _access(server: RedisInfo) -> Iterator[Finding]:
    if server.has_password is not False or _is_loopback(server.bind):
        return
    if server.is_protected:
        yield Finding(
            "note",
            "access",
            "The server has no password; in its protected mode it answers only its own machine.",
            "Before you let other machines reach it, set `requirepass` or ACL users.",
        )
    elif server.is_protected is not None:
        yield Finding(
            "danger",
            "access",
            "The server has no password, no protected mode, and listens on more than the loopback interface: anyone "
            "who reaches it owns the workflows, and the machine if its Lua is not patched.",
            "Set `requirepass` or ACL users, `protected-mode yes`, and `bind` to a private address.",
        )


def _is_loopback(bind: str | None) -> bool:
    addresses = [address.lstrip("-") for address in (bind or "").split()]
    return bool(addresses) and all(each.startswith("127.") or each in ("::1", "localhost") for each in addresses)


def _memory(server: RedisInfo) -> Iterator[Finding]:
    if server.policy not in (None, "noeviction"):
        is_limited = server.memory_limit > 0
        yield Finding(
            "danger" if is_limited else "warning",
            "memory",
            f"maxmemory-policy is {server.policy}: "
            + (
                "a full server discards runs." if is_limited else "a full server would discard runs, if it had a limit."
            ),
            "Set `maxmemory-policy noeviction`.",
        )
    elif server.is_full:
        yield Finding(
            "danger",
            "memory",
            f"{_share(server)} % of maxmemory is in use: the server refuses writes, and nothing continues until there "
            "is room.",
            "Raise maxmemory, or make room with `umbel delete` or a lower UMBEL_RETENTION_SECONDS.",
        )
    elif server.memory_limit and server.counted_memory > _NEARLY_FULL * server.memory_limit:
        yield Finding(
            "warning",
            "memory",
            f"{_share(server)} % of maxmemory is in use; at 100 % nothing continues until there is room.",
            "Raise maxmemory, or lower UMBEL_RETENTION_SECONDS.",
        )
    else:
        yield Finding("fine", "memory", f"{server.memory / 2**20:.0f} MiB in use, nothing is evicted")


def _share(server: RedisInfo) -> int:
    return int(100 * server.counted_memory / server.memory_limit)


def _limit(server: RedisInfo) -> Iterator[Finding]:
    if not server.memory_limit and server.policy in (None, "noeviction"):
        yield Finding(
            "note",
            "limit",
            "maxmemory is not set: a server that outgrows its machine is killed by the kernel; one with a limit only "
            "refuses writes until there is room.",
            "Set `maxmemory` to what the machine can spare, leaving room for rewriting the log.",
        )
