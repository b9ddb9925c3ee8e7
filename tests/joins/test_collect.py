"""The markers of fan-in parameters are plain values."""

from __future__ import annotations

from typing import Any

import pytest

from umbel.tasks.steps.collect import All, Cardinality, Collect, Take


def test_collect_gathers_everything_by_default() -> None:
    assert Collect() == Collect(All())
    assert Collect(Take(3)).cardinality == Take(n=3)


def test_cardinalities_are_hashable_values() -> None:
    assert {All(), All(), Take(1), Take(1), Take(2)} == {All(), Take(1), Take(2)}
    assert isinstance(All(), Cardinality)
    assert isinstance(Take(1), Cardinality)


@pytest.mark.parametrize("n", [0, -1, 1.0, "1", True, None])
def test_take_needs_a_whole_number_of_at_least_one(n: Any) -> None:
    with pytest.raises(ValueError, match="whole number of at least 1"):
        Take(n)
