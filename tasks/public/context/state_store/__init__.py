"""`umbel.context.state_store`: the state of a run, in Redis or in memory."""

from umbel.tasks.memory_state import InMemoryStateStore
from umbel.tasks.state_snapshot import UnserializableKeyWarning
from umbel.tasks.state_store import DictState, StateStore

__all__ = ["DictState", "InMemoryStateStore", "StateStore", "UnserializableKeyWarning"]
