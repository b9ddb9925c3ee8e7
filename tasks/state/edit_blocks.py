"""Which `edit_state` blocks the running code is inside of."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any


class EditBlock:
    """One block. Tasks that are begun inside it know of it too, until it is over."""

    def __init__(self, state: Any) -> None:
        """Args:
        state: What is edited; equal for the same state.
        """
        self.state = state
        self.open = True

    def enter(self) -> None:
        """Begin it, here and in all that is called from here."""
        _blocks.set((*(block for block in _blocks.get() if block.open), self))


_blocks: ContextVar[tuple[EditBlock, ...]] = ContextVar("umbel_edit_blocks", default=())


def refuse_inside_edit(state: Any) -> None:
    """Refuse to write to a state whose editor is waiting for us.

    Raises:
        RuntimeError: This is called inside a block for the same state.
    """
    if any(block.open and block.state == state for block in _blocks.get()):
        raise RuntimeError("writer called inside edit_state: mutate the yielded state instead")
