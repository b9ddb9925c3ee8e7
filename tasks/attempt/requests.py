"""What an attempt asks of whoever carries it out: written once, driven by a thread or by an event loop.

The flow of an attempt (`execution.py`) is a generator. It yields these requests and is given the results. A thread
does them on the spot; a loop awaits them, so that a thousand attempts need one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ...orchestration.model.plan import Plan
from ...orchestration.model.work_item import Work
from ...orchestration.store.asks import ScriptCall
from ...orchestration.store.replies import Dispatch
from ..context.step_context import StepContext
from ..workflow.registry import Registered
from .calling import OnCancel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send this script and hand back what its reply says."""

    ask: ScriptCall[Any]


@dataclass(frozen=True, slots=True)
class Block:
    """Call this, which blocks for an exchange with Redis or two, and hand back what it returns."""

    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class CallStep:
    """Execute the step's function and hand back the outcome, or raise what it raised."""

    work: Work
    registered: Registered
    face: StepContext
    on_cancel: OnCancel


@dataclass(frozen=True, slots=True)
class Ring:
    """Send dispatches. Never fails, and need not be waited for."""

    plan: Plan
    dispatches: Sequence[Dispatch]


@dataclass(frozen=True, slots=True)
class TakePermit:
    """Wait until a suspect of this level may be executed in this process; hand back its `Permit`."""

    level: int


Request: TypeAlias = Send | Block | CallStep | Ring | TakePermit
Flow: TypeAlias = Generator[Request, Any, T]
