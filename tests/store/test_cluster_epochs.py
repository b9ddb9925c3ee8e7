"""A node that was replaced without noticing still claims its slots; its answer is not believed."""

from __future__ import annotations

import pytest

from umbel.orchestration.connection.cluster import Slots, epochs_in, is_outdated, slots_in

FIRST, SECOND, REPLACEMENT = ("one", 6379), ("two", 6379), ("three", 6379)
KNOWN = [Slots(0, 8191, REPLACEMENT, 7), Slots(8192, 16383, SECOND, 2)]


@pytest.mark.parametrize(
    ("answer", "outdated"),
    [
        pytest.param([Slots(0, 8191, FIRST, 1), KNOWN[1]], True, id="from before a failover"),
        pytest.param([Slots(0, 99, REPLACEMENT, 7), Slots(100, 8191, FIRST, 1), KNOWN[1]], True, id="in part"),
        pytest.param(KNOWN, False, id="what is known"),
        pytest.param([Slots(0, 8191, FIRST, 8), KNOWN[1]], False, id="after another failover"),
        pytest.param([Slots(0, 9000, REPLACEMENT, 8), Slots(9001, 16383, SECOND, 2)], False, id="slots have moved"),
        pytest.param([KNOWN[1]], False, id="slots without a primary"),
    ],
)
def test_an_answer_is_outdated_when_it_knows_less_of_a_slot_than_we_do(answer: list[Slots], outdated: bool) -> None:
    assert is_outdated(answer, KNOWN) is outdated


def test_nodes_that_do_not_say_epochs_are_believed_as_they_answer() -> None:
    reply = [[0, 8191, [b"one", 6379, b"a"]], [8192, 16383, [b"", 6380, b"b"]]]
    answer = slots_in(reply, SECOND)
    assert answer == [Slots(0, 8191, FIRST), Slots(8192, 16383, ("two", 6380))]
    assert not is_outdated(answer, answer)


def test_each_range_has_the_epoch_of_its_primary() -> None:
    nodes = (
        b"a 10.0.0.1:6379@16379,one myself,master - 0 1700000000000 3 connected 0-8191 [93->-b]\n"
        b"b 10.0.0.2:6379@16379 master - 0 1700000000000 12 connected 8192-16383\n"
        b"c 10.0.0.3:6379@16379 slave b 0 1700000000000 12 disconnected\n"
    )
    reply = [[0, 8191, [b"one", 6379, b"a", []]], [8192, 16383, [b"two", 6379, b"b", []], [b"three", 6379, b"c", []]]]
    assert slots_in(reply, FIRST, epochs_in(nodes)) == [Slots(0, 8191, FIRST, 3), Slots(8192, 16383, SECOND, 12)]
