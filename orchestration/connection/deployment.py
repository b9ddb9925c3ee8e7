"""The deployment's record: key prefix, number of shards and schema version, written into Redis once and then compared.

A process with another number of shards would look for runs in the wrong places, so it neither starts nor reads any.
Every state connection is checked when it is made: this covers each process, and also a Redis that was replaced.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import ResponseError

from ..model.errors import ConfigurationError
from .keys import MAX_SHARDS, RUN_INDEXES, Keys, state_id_of
from .settings import redact_url

logger = logging.getLogger("umbel.deployment")

#: Version of the key layout. Releases with different versions cannot work on the same runs.
SCHEMA = 1

#: Transient errors: the server may answer the same command a moment later.
_NOT_NOW = ("BUSY ", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")

#: Runs looked at per index and shard of a deployment that has no record yet.
_SAMPLE = 8


@dataclass(frozen=True, slots=True)
class Deployment:
    """What all processes of a deployment must agree on."""

    key_prefix: str
    shards: int
    schema: int = SCHEMA

    @property
    def _keys(self) -> Keys:
        return Keys(self.key_prefix, self.shards)

    @property
    def record(self) -> str:
        """The name of the record's key."""
        return self._keys.in_shard(0, "deployment")

    async def judge(self, connection: Any, url: str) -> None:
        """Compare these values with the record, which the first process writes.

        A deployment of an older release has no record: its runs must be in the shards that follow from this number.

        Args:
            connection: A redis-py connection that has just been made.
            url: The server it is connected to.

        Raises:
            ConfigurationError: The deployment has other values; the message says which, and what to do.
            ConnectionError, TimeoutError: Redis did not answer.
        """
        recorded, size = await _asked(connection, [("GET", self.record), ("DBSIZE",)])
        if recorded is None:
            if size:
                await self._judge_runs(connection, url)
                await self._name_others(connection, url)
            own = json.dumps(asdict(self))
            _, recorded = await _asked(connection, [("SET", self.record, own, "NX"), ("GET", self.record)])
        if isinstance(recorded, bytes):  # otherwise this user may not read or write the record
            self._compare(json.loads(recorded), url)

    def _compare(self, recorded: dict[str, Any], url: str) -> None:
        about = f"The deployment with key prefix {self.key_prefix!r} in Redis at {redact_url(url)}"
        if recorded["schema"] != self.schema:
            raise ConfigurationError(
                f"{about} has keys of schema {recorded['schema']}, and this release of umbel works with schema "
                f"{self.schema}. Use the release of its other processes, or another UMBEL_KEY_PREFIX."
            )
        if recorded["shards"] != self.shards:
            raise ConfigurationError(
                f"{about} has {recorded['shards']} shards, and this process is set to {self.shards}: it would not find "
                f"its runs. Set UMBEL_SHARDS={recorded['shards']}. The number is fixed for the life of a deployment; "
                "for another one begin a new deployment with another UMBEL_KEY_PREFIX."
            )

    async def _judge_runs(self, connection: Any, url: str) -> None:
        keys = self._keys
        beyond = list(range(self.shards, MAX_SHARDS))
        exist = await _asked(
            connection, [("EXISTS", *(keys.in_shard(shard, name) for name in RUN_INDEXES)) for shard in beyond]
        )
        if found := [shard for shard, number in zip(beyond, exist, strict=True) if number]:
            raise self._misplaced(f"there are runs in shard {found[-1]}, so it has at least {found[-1] + 1}", url)
        places = [(shard, name) for shard in range(self.shards) for name in RUN_INDEXES]
        samples = await _asked(
            connection, [("ZRANGE", keys.in_shard(shard, name), 0, _SAMPLE - 1) for shard, name in places]
        )
        for (shard, _), sample in zip(places, samples, strict=True):
            for run_id in [raw.decode() for raw in sample or ()]:
                if keys.shard_of(state_id_of(run_id)) != shard:
                    raise self._misplaced(f"run {run_id!r} is in shard {shard}, where it would not look for it", url)

    def _misplaced(self, evidence: str, url: str) -> ConfigurationError:
        return ConfigurationError(
            f"The deployment with key prefix {self.key_prefix!r} in Redis at {redact_url(url)} has another number of "
            f"shards than this process, which is set to {self.shards}: {evidence}. Set UMBEL_SHARDS to what it was "
            f"when these runs began. If {self.shards} is right and runs of another number are to be left aside, say "
            f"so once: redis-cli SET '{self.record}' '{json.dumps(asdict(self))}'"
        )

    async def _name_others(self, connection: Any, url: str) -> None:
        """Warn if there are other deployments: a new key prefix begins a new one, which may be a mistake."""
        (found,) = await _asked(
            connection, [("SCAN", "0", "MATCH", Keys("*").in_shard(0, "deployment"), "COUNT", 10_000)]
        )
        others = sorted(key.decode().removesuffix(Keys("").in_shard(0, "deployment")) for key in (found or (0, []))[1])
        if others:
            logger.warning(
                "This begins a new deployment with key prefix %r in Redis at %s, which has others: %s. If this process "
                "belongs to one of them, correct UMBEL_KEY_PREFIX.",
                self.key_prefix,
                redact_url(url),
                ", ".join(map(repr, others[:10])),
                extra={"action": "new_deployment"},
            )


async def _asked(connection: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Replies to commands that are sent together; None for one that is refused, by the ACL or by a replica.

    Raises:
        ResponseError: Redis is busy or loading: nothing can be concluded, and the connection must be made again.
    """
    await connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except ResponseError as error:
            if str(error).startswith(_NOT_NOW):
                raise
            replies.append(None)
    return replies
