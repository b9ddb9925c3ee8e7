"""Releases of Redis and Valkey, and whether they are new enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Redis or Valkey.

    Attributes:
        product: `Redis` or `Valkey`.
        version: Its numbers, such as (9, 1, 2).
    """

    product: str
    version: tuple[int, ...]

    @classmethod
    def parse(cls, product: str, dotted: str) -> Self:
        """A release from its version as text; parts that are not numbers are omitted."""
        return cls(product, tuple(int(part) for part in dotted.split(".") if part.isdecimal()))

    @classmethod
    def of_info(cls, info: Mapping[str, Any]) -> Self | None:
        """The release in a reply to `INFO server`; None if there is none."""
        if "valkey_version" in info:  # Valkey reports a redis_version as well, which never changes
            return cls.parse("Valkey", str(info["valkey_version"]))
        return cls.parse("Redis", str(info["redis_version"])) if "redis_version" in info else None

    @property
    def is_new_enough(self) -> bool:
        """Whether umbel can use it."""
        return self.version >= _OLDEST.get(self.product, _OLDEST["Redis"])

    def __str__(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))}"


#: The oldest supported releases: the first ones with functions.
_OLDEST = {"Redis": (7, 0), "Valkey": (7, 2)}
#: The same as text.
OLDEST_RELEASES = " or ".join(str(Release(product, version)) for product, version in _OLDEST.items())
