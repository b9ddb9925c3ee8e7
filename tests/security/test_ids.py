"""External ids become parts of keys, index members and shell commands: invalid ones are refused at once."""

from __future__ import annotations

import re

import pytest

from umbel.orchestration.connection.keys import Keys, check_chosen_id, check_run_id, new_id
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.errors import WorkflowRuntimeError
from umbel.tasks.client.runtime import Runtime

HOSTILE = [
    "",
    " ",
    "-rf",
    "a b",
    "a\n",
    "a\r\nSET x 1",
    "a\x00b",
    "run|work",
    "run:events",
    "{00}",
    "}x{",
    "*",
    "run?",
    "[ab]",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "..",
    "a.b.c",
    ".a",
    "a.",
    "%2e%2e",
    "'; drop --",
    "<script>",
    "ä",
    "\N{FULLWIDTH DIGIT ONE}",
    "x" * 129,
]


@pytest.mark.parametrize("run_id", HOSTILE)
def test_a_hostile_run_id_is_refused(run_id: str) -> None:
    with pytest.raises(WorkflowRuntimeError, match="cannot be a run id: expected 1 to 128 letters"):
        check_run_id(run_id)


@pytest.mark.parametrize("run_id", [None, 7, b"bytes", ["x"], {"$ne": ""}])
def test_what_is_no_text_is_no_run_id(run_id: object) -> None:
    with pytest.raises(WorkflowRuntimeError, match="cannot be a run id"):
        check_run_id(run_id)  # type: ignore[arg-type]


@pytest.mark.parametrize("run_id", HOSTILE)
def test_a_hostile_run_id_is_refused_before_redis_is_asked(run_id: str) -> None:
    runtime = Runtime(Settings(redis_url="redis://127.0.0.1:1/0"))  # nothing listens there

    with pytest.raises(WorkflowRuntimeError, match="cannot be a run id"):
        runtime.attach(run_id)
    runtime.close()


def test_nobody_chooses_an_id_that_only_a_handlers_runs_have() -> None:
    assert check_run_id("order.x1") == "order.x1"
    with pytest.raises(WorkflowRuntimeError, match="cannot be a run id"):
        check_chosen_id("order.x1")


@pytest.mark.parametrize("run_id", ["a", "_", "A-b_9", "x" * 128])
def test_ids_that_fit_are_taken(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


def test_generated_ids_fit_and_have_128_random_bits() -> None:
    made = {new_id() for _ in range(1_000)}

    assert len(made) == 1_000
    assert all(check_run_id(each) and len(each) == 22 for each in made)


def test_all_keys_of_a_run_have_the_hash_tag_of_its_shard_and_no_other() -> None:
    keys = Keys("umbel", 16).of_run("A-b_9")

    tags = {match for name in ("run", "work", "stream", "unclaimed") for match in re.findall(r"\{[^}]*\}", keys[name])}
    assert tags == {f"{{{keys.shard:02d}}}"}


@pytest.mark.parametrize("prefix", ["", "a b", "x{1}", "x*", "x\n", "ü", "x" * 65])
def test_a_key_prefix_that_would_move_or_match_other_keys_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="key_prefix"):
        Settings(key_prefix=prefix)
