"""When a step that takes a list of events runs: `Annotated[list[E], Collect(Take(3))]`.

A step annotated `-> list[E]` fans out: each element is a separate event, and together they form one stream. A step with
a `list[E]` parameter gathers the events that result from that stream and runs **once** per fan-out:

    @step
    async def split(self, ev: StartEvent) -> list[Part]: ...

    @step
    async def work(self, ev: Part) -> Done: ...

    @step
    async def fastest(self, evs: Annotated[list[Done], Collect(Take(1))]) -> StopEvent: ...

Edge cases:

- **An empty list.** `return []` opens a stream and closes it at once: the gathering step runs once, with `[]`.
- **None.** `return None` opens nothing: the gathering step does not run for this execution.
- **A bare member.** With `-> list[A] | B`, returning one `B` is ordinary routing without a stream. Returning one `A`
  is an error, since `A` is declared only inside the list; `-> list[A] | A` allows it, again without a stream.
- **A branch that ends.** A member whose step returns None leaves the stream, so the list has one event fewer. A member
  that fails and is recovered by `@catch_error` stays in the stream, and retries keep the stream open.
- **Early close.** `Take(n)` on a stream that closes with fewer than `n` arrivals runs once with those that arrived,
  even if there are none.
- **Order.** The list is in order of arrival, not of emission.
- **Nesting.** Fan-outs within a fan-out are gathered at the innermost level first.
- **Sent events.** `ctx.send_event` never adds to a stream. A sent event that only a gathering step accepts is ignored
  with a warning; sending to the gathering step by name raises in the sender.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...orchestration.model.durations import LARGEST_COUNT, is_count


@dataclass(frozen=True)
class Cardinality:
    """How many members of a stream a gathering step waits for. Use `All` or `Take`; other subclasses are refused."""


@dataclass(frozen=True)
class All(Cardinality):
    """Run once when the stream has closed, with every event that arrived. The same as a plain `list[E]`."""


@dataclass(frozen=True)
class Take(Cardinality):
    """Run once at the n-th arrival, with the first n events, or with fewer if the stream closes earlier.

    The other members keep running, but this step does not see them; `Collect(Take(n), cancel_rest=True)` cancels them.

    Attributes:
        n: How many arrivals to wait for, at least 1.

    Raises:
        ValueError: `n` is not an integer of at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        if not is_count(self.n):
            raise ValueError(f"Take(n) needs a whole number of at least 1, got {self.n!r}; at most {LARGEST_COUNT:,}.")


@dataclass(frozen=True)
class Collect:
    """Marks a `list[E]` parameter: when its step runs, and with which events.

    Attributes:
        cardinality: `All()` (the default: when the stream closes, with everything) or `Take(n)`.
        cancel_rest: With `Take(n)`: branches that have not arrived by then are cancelled, as by `ctx.cancel_step`; use
            it to run a race.
        by: With `All()`: a field of the events. The step runs once for each value of the field, with the events that
            have this value; it does not run if nothing arrived.

    Raises:
        ValueError: `cancel_rest` is set without `Take(n)`, or `by` without `All()`.
    """

    cardinality: Cardinality = field(default_factory=All)
    cancel_rest: bool = False
    by: str | None = None

    def __post_init__(self) -> None:
        if self.by is not None and not isinstance(self.cardinality, All):
            raise ValueError(
                "Collect(by=…) needs All(): a group is known to be complete only when the fan-out has closed."
            )
        if self.cancel_rest and not isinstance(self.cardinality, Take):
            raise ValueError("Collect(cancel_rest=True) needs Take(n): with All() there is no rest to cancel.")
