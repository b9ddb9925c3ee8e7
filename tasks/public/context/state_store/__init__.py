"""`umbel.context.state_store`: the state of a run, in Redis or in memory."""

from umbel.tasks.state.memory import InMemoryStateStore
from umbel.tasks.state.snapshot import UnserializableKeyWarning
from umbel.tasks.state.store import DictState, StateStore

__all__ = ["DictState", "InMemoryStateStore", "StateStore", "UnserializableKeyWarning"]
