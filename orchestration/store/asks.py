"""An ask: one script with its keys and arguments, and how its reply is read. Who sends it decides how one waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .scripts import Script

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScriptCall(Generic[T]):
    """One verb on one run, ready to be sent.

    Attributes:
        what: What is being done, for errors.
        script: The verb.
        keys: KEYS.
        args: ARGV.
        read: Makes the reply a value.
    """

    what: str
    script: Script
    keys: list[str]
    args: list[bytes]
    read: Callable[[Any], T]
