"""Snapshots of all versions, in the formats that LlamaIndex Workflows has used."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from umbel.orchestration.model.errors import ContextSerdeError
from umbel.tasks.events.event import StartEvent
from umbel.tasks.events.serializers import JsonSerializer
from umbel.tasks.snapshots.shape import Attempt, Snapshot, StatePart, StepSnapshot, Waiter
from umbel.tasks.snapshots.versions import load_snapshot, upgraded


def event(name: str = "StartEvent", **dynamic: Any) -> str:
    value = {"_data": dynamic} if dynamic else {}
    return json.dumps({"__is_pydantic": True, "value": value, "qualified_name": f"workflows.events.{name}"})


STREAM = "stream-0123456789abcdef"
BINDING = "scatter->gather:shop.flows.Part:All:nearest"
STATE = {
    "store_type": "in_memory",
    "state_type": "DictState",
    "state_module": "workflows.context.state_store",
    "state_data": {"_data": {"n": "1"}},
}

#: One example of everything, each entry with all its keys, in the order in which they are written.
VERSION_2: dict[str, Any] = {
    "version": 2,
    "state": STATE,
    "is_running": True,
    "workers": {
        "ask": {
            "queue": [],
            "in_progress": [],
            "collected_events": {"default": [event(n=1), event(n=2)]},
            "static_collect_events": [],
            "collected_waiters": [
                {
                    "waiter_id": "waiter_workflows.events.HumanResponseEvent_{}_work_item_1",
                    "event": event(),
                    "bound_events": None,
                    "waiting_for_event": "workflows.events.HumanResponseEvent",
                    "has_requirements": True,
                    "resolved_event": event("HumanResponseEvent", answer=42),
                    "scope_path": [STREAM],
                    "collection_release_payload": None,
                    "work_item_id": "work_item_1",
                }
            ],
        },
        "gather": {
            "queue": [
                {
                    "event": event("CollectionReleaseEvent"),
                    "bound_events": None,
                    "attempts": 1,
                    "first_attempt_at": 1000.5,
                    "last_exception": {"exception_type": "builtins.ValueError", "exception_message": "no"},
                    "last_failed_at": 1001.0,
                    "recovery_counts": {"fix": 1},
                    "not_before": 1002.0,
                    "scope_path": [],
                    "collection_release_payload": {
                        "binding_id": BINDING,
                        "stream_id": "stream-of-before",
                        "events": [event(n=1)],
                        "output_scope_path": [],
                    },
                    "work_item_id": f"work_item_collect_stream-of-before:{BINDING}",
                }
            ],
            "in_progress": [],
            "collected_events": {},
            "static_collect_events": [],
            "collected_waiters": [],
        },
        "join": {
            "queue": [],
            "in_progress": [
                {
                    "event": event(n=2),
                    "bound_events": {"left": event(n=1), "right": event(n=2)},
                    "attempts": 0,
                    "first_attempt_at": 1003.0,
                    "last_exception": None,
                    "last_failed_at": None,
                    "recovery_counts": {},
                    "not_before": None,
                    "scope_path": [STREAM],
                    "collection_release_payload": None,
                    "work_item_id": "work_item_2",
                }
            ],
            "collected_events": {},
            "static_collect_events": [event(n=3)],
            "collected_waiters": [],
        },
    },
    "stream_seq": 2,
    "work_item_seq": 2,
    "deliveries": [],
    "streams": {
        STREAM: {
            "stream_id": STREAM,
            "source_step": "scatter",
            "scope_path": [],
            "open_work_items": 2,
            "accepting_binding_ids": [BINDING],
        }
    },
    "collection_release_states": {
        f"{STREAM}:{BINDING}": {
            "binding_id": BINDING,
            "stream_id": STREAM,
            "buffer": [event(n=4)],
            "released": False,
        }
    },
    "elapsed_alive": 0.5,
}

VERSION_1: dict[str, Any] = {
    "version": 1,
    "state": STATE,
    "is_running": True,
    "workers": {
        "ask": {
            "queue": [{"event": event(n=1), "attempts": 2, "first_attempt_at": 5.0}],
            "in_progress": [event(n=2)],
            "collected_events": {"default": [event(n=3)]},
            "collected_waiters": [
                {
                    "waiter_id": "w",
                    "event": event(n=4),
                    "waiting_for_event": "workflows.events.HumanResponseEvent",
                    "requirements": {"user": "Ada"},
                    "resolved_event": None,
                },
                {
                    "waiter_id": "x",
                    "event": event(n=5),
                    "waiting_for_event": "workflows.events.HumanResponseEvent",
                    "requirements": {},
                },
            ],
        }
    },
}

VERSION_0: dict[str, Any] = {
    "state": {key: value for key, value in STATE.items() if key != "store_type"},
    "streaming_queue": json.dumps([event("StopEvent")]),
    "queues": {"ask": json.dumps([event(n=2)]), "tell": "[]", "waiter-1": json.dumps([event(n=9)])},
    "event_buffers": {"tell": {"a.A": [event(n=3), event(n=4)], "b.B": [event(n=5)]}},
    "in_progress": {"ask": [event(n=1)]},
    "accepted_events": [["ask", "StartEvent"]],
    "broker_log": [event()],
    "is_running": True,
    "waiting_ids": ["waiter-1"],
}


def test_a_snapshot_of_version_2_is_read_and_written_without_a_change() -> None:
    loaded = load_snapshot(VERSION_2)

    assert json.dumps(loaded.model_dump()) == json.dumps(VERSION_2)
    assert loaded.workers["gather"].queue[0].collection_release_payload is not None
    assert loaded.streams[STREAM].accepting_binding_ids == [BINDING]


def test_a_snapshot_of_version_1_gets_attempts_without_a_past() -> None:
    loaded = load_snapshot(VERSION_1)

    assert (loaded.version, loaded.is_running, loaded.streams) == (2, True, {})
    assert loaded.state == StatePart(**STATE)
    step = loaded.workers["ask"]
    assert step.queue == [Attempt(event=event(n=1), attempts=2, first_attempt_at=5.0)]
    assert step.in_progress == [Attempt(event=event(n=2))]
    assert step.collected_events == {"default": [event(n=3)]}
    assert [waiter.has_requirements for waiter in step.collected_waiters] == [True, False]
    assert "requirements" not in step.collected_waiters[0].model_dump()


def test_attempts_in_a_snapshot_of_version_1_stay_attempts() -> None:
    data = {"version": 1, "workers": {"ask": {"in_progress": [{"event": event(), "attempts": 3}, event(n=1)]}}}

    assert load_snapshot(data).workers["ask"].in_progress == [
        Attempt(event=event(), attempts=3),
        Attempt(event=event(n=1)),
    ]


def test_what_a_snapshot_of_version_0_has_in_progress_comes_before_what_is_queued() -> None:
    loaded = load_snapshot(VERSION_0)

    assert (loaded.version, loaded.is_running) == (2, True)
    assert loaded.state == StatePart(**STATE)
    assert loaded.workers == {
        "ask": StepSnapshot(queue=[Attempt(event=event(n=1)), Attempt(event=event(n=2))]),
        "tell": StepSnapshot(collected_events={"default": [event(n=3), event(n=4), event(n=5)]}),
    }


@pytest.mark.parametrize(
    "data", [{}, {"version": 0}, {"version": None}, {"version": 2}, {"version": 1, "workers": None}]
)
def test_a_snapshot_may_be_empty(data: dict[str, Any]) -> None:
    assert load_snapshot(data) == Snapshot()
    assert Snapshot().model_dump()["state"] == {}


@pytest.mark.parametrize("data", [VERSION_0, VERSION_1, VERSION_2], ids=["0", "1", "2"])
def test_a_snapshot_stays_as_it_is_when_it_is_brought_up_to_date(data: dict[str, Any]) -> None:
    before = copy.deepcopy(data)
    once = upgraded(data)

    assert data == before
    assert upgraded(once) == once
    assert json.loads(json.dumps(once)) == once


def test_events_of_another_library_are_read_as_ours() -> None:
    texts = load_snapshot(VERSION_2).workers["ask"].collected_events["default"]

    assert [JsonSerializer().deserialize(text) for text in texts] == [StartEvent(n=1), StartEvent(n=2)]


def test_unknown_keys_are_kept() -> None:
    data = copy.deepcopy(VERSION_2)
    holders = (
        data,
        data["workers"]["join"],
        data["workers"]["join"]["in_progress"][0],
        data["workers"]["ask"]["collected_waiters"][0],
        data["streams"][STREAM],
    )
    for holder in holders:
        holder["umbel"] = {"format": 1}
    data["last_alive_stamp"] = 1.5

    loaded = load_snapshot(data)
    assert (loaded.model_extra or {})["umbel"] == {"format": 1}
    assert loaded.model_dump() == data


def test_unknown_keys_of_a_state_or_a_batch_do_no_harm() -> None:
    data = copy.deepcopy(VERSION_2)
    release = data["workers"]["gather"]["queue"][0]["collection_release_payload"]
    data["state"]["later"] = data["collection_release_states"][f"{STREAM}:{BINDING}"]["later"] = release["later"] = 1

    assert load_snapshot(data).model_dump() == VERSION_2


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_newer_snapshot_is_refused() -> None:
    with pytest.raises(ContextSerdeError, match=r"version 3; this release reads up to version 2.*newer release"):
        load_snapshot({**VERSION_2, "version": 3})


@pytest.mark.parametrize("version", ["2", 2.0, True, -1, [2], {}])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    with pytest.raises(ContextSerdeError, match="a whole number from 0 to 2") as caught:
        load_snapshot({**VERSION_2, "version": version})
    assert repr(version) in str(caught.value)


def test_running_child_workflows_are_refused() -> None:
    with pytest.raises(ContextSerdeError, match=r"running child workflows \('research#0'\)"):
        load_snapshot({**VERSION_2, "child_brokers": {"research#0": {}}})
    assert load_snapshot({**VERSION_2, "child_brokers": {}}).is_running


@pytest.mark.parametrize("data", [None, "{}", [], 5])
def test_what_is_no_dict_is_refused(data: Any) -> None:
    with pytest.raises(ContextSerdeError, match=f"is a dict, this is a {type(data).__name__}"):
        load_snapshot(data)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"queues": {"ask": "no json"}}, "queues.ask should be the JSON text of a list, found 'no json'"),
        ({"queues": {"ask": "{}"}}, "queues.ask"),
        ({"queues": {"ask": [event()]}}, "queues.ask"),
        ({"queues": []}, "queues should be a dict"),
        ({"in_progress": {"ask": event()}}, "in_progress.ask should be a list"),
        ({"event_buffers": {"ask": []}}, "event_buffers.ask should be a dict"),
        ({"event_buffers": {"ask": {"a.A": 5}}}, "event_buffers.ask.a.A should be a list"),
        ({"event_buffers": {"ask": {"a.A": [5]}}}, "workers.ask.collected_events.default.0: "),
        ({"queues": {"ask": "[5]"}}, "workers.ask.queue.0.event: "),
        ({"waiting_ids": 5}, "waiting_ids"),
        ({"state": 5}, "state should be a dict"),
        ({"version": 1, "workers": []}, "workers should be a dict"),
        ({"version": 1, "workers": {"ask": 5}}, "workers.ask should be a dict"),
        ({"version": 1, "workers": {"ask": {"in_progress": {}}}}, "workers.ask.in_progress should be a list"),
        ({"version": 1, "workers": {"ask": {"in_progress": [5]}}}, "workers.ask.in_progress.0: "),
        ({"version": 2, "workers": {"ask": {"queue": [{"attempts": 1}]}}}, "workers.ask.queue.0.event: "),
        ({"version": 2, "workers": {"ask": {"in_progress": [event()]}}}, "workers.ask.in_progress.0: "),
        ({"version": 2, "streams": {"s": {}}}, "streams.s.stream_id: "),
        ({"version": 2, "is_running": "perhaps"}, "is_running: "),
        ({"version": 2, "workers": {"ask": {"collected_waiters": [5]}}}, "workers.ask.collected_waiters.0: "),
    ],
)
def test_a_damaged_snapshot_is_refused_with_the_place(data: dict[str, Any], place: str) -> None:
    with pytest.raises(ContextSerdeError) as caught:
        load_snapshot(data)
    assert place in str(caught.value)
    assert "Context.to_dict()" in str(caught.value)


def test_a_waiter_knows_that_it_has_requirements_from_either_key() -> None:
    known = {"waiter_id": "w", "event": event(), "waiting_for_event": "a.A"}

    for more, expected in (
        ({}, False),
        ({"has_requirements": True}, True),
        ({"requirements": {"a": 1}}, True),
        ({"requirements": {}, "has_requirements": True}, True),
        ({"requirements": None}, False),
    ):
        assert Waiter.model_validate(known | more).has_requirements is expected
