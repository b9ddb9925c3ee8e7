"""JSON Patches as defined by RFC 6902, and lookalikes that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from umbel import WorkflowRuntimeError
from umbel.orchestration.history.json_patch import difference, patched

STATE = {"items": [1, 2], "a/b": {"~": None}, "": 0}


@pytest.mark.parametrize("after", [{}, {"items": [2], "-": 1}, {"items": {"0": 1}, "a/b": {"~": {"__proto__": []}}}])
def test_a_patch_of_a_difference_makes_the_other_value(after: Any) -> None:
    assert patched(STATE, list(difference(STATE, after))) == after


@pytest.mark.parametrize("op", ["add", "remove", "replace", "test"])
@pytest.mark.parametrize(
    "path",
    [
        "items",
        "/items/-1",
        "/items/01",
        "/items/1_0",
        "/items/ 1",
        "/items/٣",
        "/items/9999",
        "/a~2b",
        "/~",
        5,
        None,
        [],
    ],
)
def test_a_path_that_names_no_place_is_refused(op: str, path: Any) -> None:
    with pytest.raises(WorkflowRuntimeError, match="The patch does not fit"):
        patched(STATE, [{"op": op, "path": path, "value": 1}])
