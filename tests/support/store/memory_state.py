"""Helpers for tests of the in-memory state."""

from __future__ import annotations

import threading
from typing import Any

from pydantic import BaseModel

from support.store.state import Derived
from umbel.orchestration.connection.settings import Settings
from umbel.tasks.state.fields import StateFields
from umbel.tasks.state.store import DictState


class Client:
    """An object that can be neither copied nor serialized."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Linked(BaseModel):
    name: str = ""
    other: Any = None


class More(Derived):
    extra: int = 1


class Loose(DictState):
    count: int = 0


def fields(cls: type[Any] = DictState, **settings: Any) -> StateFields[Any]:
    return StateFields(cls, "r1", Settings(**settings))
