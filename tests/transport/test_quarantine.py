"""Malformed broker messages, and the damage they must not cause."""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from support.eventually import eventually
from support.processes.transport import Place, running_place
from umbel.workers.transport import channel as transport
from umbel.workers.transport import quarantine


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with running_place(tmp_path) as place:
        yield place


def _message(content: Any = None, *, without: str = "", **changes: Any) -> bytes:
    """Return a valid message for `note`, with changes that make it malformed."""
    content = json.dumps([["folder", "name"], {}, {}] if content is None else content).encode()
    properties = {"delivery_tag": "tag", "delivery_info": {"exchange": "", "routing_key": "work"}}
    message = {
        "body": base64.b64encode(content).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "note", "id": "1"},
        "properties": {**properties, "body_encoding": "base64"},
    }
    message = {**message, **changes}
    message.pop(without, None)
    return json.dumps(message).encode()


def _with_properties(**changes: Any) -> bytes:
    properties = json.loads(_message())["properties"]
    return _message(properties={**properties, **changes})


def _with_headers(**changes: Any) -> bytes:
    return _message(headers={"task": "note", "id": "1", **changes})


def _of_protocol_1(**changes: Any) -> bytes:
    return _message({"task": "note", "id": "1", "args": [], "kwargs": {}, **changes}, without="headers")


def _with_body(content: bytes, **headers: Any) -> bytes:
    return _message(body=base64.b64encode(content).decode(), headers={"task": "note", "id": "1", **headers})


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


MALFORMED: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{not json", "expected JSON"),
    "no text": (b"\xff\xfe\x00", "expected JSON"),
    "nested too deeply": (b"[" * 100_000, "expected JSON"),
    "a list": (b"[1]", "expected a JSON object, found a list"),
    "a type kombu does not know": (b'{"__type__": "x", "__value__": 1}', "expected JSON"),
    "no properties": (b'{"body": "x"}', "'properties', found nothing"),
    "properties of a wrong type": (_message(properties=[]), "'properties', found a list"),
    "no tag": (_message(properties={}), "'properties.delivery_tag', found nothing"),
    "a tag of a wrong type": (_with_properties(delivery_tag={}), "'properties.delivery_tag', found an object"),
    "delivery_info of a wrong type": (_with_properties(delivery_info=1), "'properties.delivery_info', found a number"),
    "an unknown encoding": (_with_properties(body_encoding="rot13"), "body_encoding' (base64), found 'rot13'"),
    "an encoding of a wrong type": (_with_properties(body_encoding=[]), "body_encoding' (base64), found []"),
    "bad base64": (_message(body="abc"), "its body does not decode: Error('Incorrect padding')"),
    "no body": (_message(without="body"), "'body', found nothing"),
    "a body of a wrong type": (_message(body={}), "'body', found an object"),
    "a content type of a wrong type": (_message(**{"content-type": 1}), "'content-type', found a number"),
    "neither headers nor a task in the body": (_message({}, without="headers"), "a 'task' and an 'id'"),
    "headers of a wrong type": (_message(headers="x"), "'headers', found a text"),
    "null headers": (_message(headers=None), "'headers', found nothing"),
    "a task of a wrong type": (_message(headers={"task": [], "id": "1"}), "'headers.task', found a list"),
    "no id": (_message(headers={"task": "note"}), "'headers.id', found nothing"),
    "time limits of a wrong type": (_message(headers={"task": "note", "id": "1", "timelimit": 3}), "two time limits"),
    "compressed, but not really": (
        _message(headers={"task": "note", "id": "1", "compression": "application/x-gzip"}),
        "its body does not decompress",
    ),
    "a body that is no JSON": (_message(body=base64.b64encode(b"{").decode()), "does not deserialize"),
    "a content type that is not accepted": (
        _message(**{"content-type": "application/x-python-serialize"}),
        "untrusted content",
    ),
    "a body that is no triple": (_message([1, 2]), "expected [args, kwargs, embed] as the body of task 'note'"),
    "a body that is nested too deeply": (_with_body(_nested(5_000)), "its body does not deserialize"),
    "a body that is never closed": (_with_body(b"[" * 100_000), "its body does not deserialize"),
    "a body that pickle would fail on": (_with_body(b"[[" + _nested(900) + b"],{},{}]"), "at most 300 lists"),
    "headers that pickle would fail on": (_with_headers(lang=json.loads(_nested(900))), "at most 300 lists"),
    "a task that is an object": (_with_headers(task={"a": 1}), "'headers.task', found an object"),
    "a shadow that is a list": (_with_headers(shadow=["x"]), "'headers.shadow', found a list"),
    "a workflow that is a list": (_with_headers(umbel_workflow=["x"]), "'headers.umbel_workflow', found a list"),
    "an empty list as the expiry": (_with_headers(expires=[]), "'headers.expires', found a list"),
    "an empty text as the expiry": (_with_headers(expires=""), "'headers.expires', found an empty text"),
    "an object as the start": (_with_headers(eta={}), "'headers.eta', found an object"),
    "texts as time limits": (_with_headers(timelimit=["x", "y"]), "'headers.timelimit', found 'x'"),
    "a time limit without end": (_with_headers(timelimit=[None, float("inf")]), "'headers.timelimit', found inf"),
    "a time limit before now": (_with_headers(timelimit=[-1, None]), "'headers.timelimit', found -1"),
    "a text as the retries": (_with_headers(retries="x"), "'headers.retries', found 'x'"),
    "more retries than there can be": (_with_headers(retries=10**30), "'headers.retries', found 1000000"),
    "a number as the stamps' names": (_with_headers(stamped_headers=5), "'headers.stamped_headers', found 5"),
    "lists as the stamps' names": (_with_headers(stamped_headers=[["x"]]), "'headers.stamped_headers', found [['x']]"),
    "a list as the stamps": (_with_headers(stamps=["x"]), "'headers.stamps', found a list"),
    "a tag that Redis cannot be sent": (_with_properties(delivery_tag="\ud800"), "only ASCII characters"),
    "an infinite priority": (_with_properties(priority=float("inf")), "'properties.priority', found inf"),
    "protocol 1 with an expiry that is a list": (_of_protocol_1(expires=[]), "'body.expires', found a list"),
    "protocol 1 with a time limit that is a text": (_of_protocol_1(timelimit=["x", 1]), "'body.timelimit', found 'x'"),
    "a kilobyte that unpacks to gigabytes": (
        _with_body(zlib.compress(b"[" + b" " * (40 << 20) + b"]"), compression="application/x-gzip"),
        "it would have more than 33,554,432 bytes",
    ),
}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_messages_that_make_no_sense_cost_no_worker_and_no_other_message(place: Place, pool: str) -> None:
    place.options = {"global_keyprefix": "shop:"}
    worker = place.worker("--concurrency", "2", "--pool", pool)
    place.start_holding(worker, "in flight")

    place.server.ask("LPUSH", "shop:work", *(raw for raw, _ in MALFORMED.values()))
    place.send("note", "after them")
    place.await_effects("note after them")
    place.open("in flight")
    place.await_effects("end in flight")
    place.await_all_acknowledged()

    said = "Quarantined a malformed message of queue 'work'"
    eventually(lambda: worker.says(said) == len(MALFORMED), "all are quarantined")

    assert worker.is_alive()
    assert worker.says("Connected to") == 1
    assert len(place.effects()) == 3
    kept = [json.loads(entry) for entry in place.server.ask("LRANGE", "shop:umbel:quarantine:work", 0, -1)]
    reasons = {entry["raw"].encode("latin-1"): entry["reason"] for entry in kept}
    assert reasons.keys() == {raw for raw, _ in MALFORMED.values()}
    assert [what for what, (raw, reason) in MALFORMED.items() if reason not in reasons[raw]] == [], reasons
    assert worker.says(said) == len(kept) == len(MALFORMED)


def test_a_message_whose_delivery_fails_is_quarantined_with_the_reason_and_the_next_one_is_served(place: Place) -> None:
    worker = place.worker("--concurrency", "1")

    place.send("stumble", "first")
    place.send("note", "after it")
    place.await_effects("note after it")
    place.await_all_acknowledged()

    with place.server.client as client:
        found = transport.quarantined(client)["work"]
    assert (found.count, found.latest and found.latest.reason) == (
        1,
        "its delivery failed (KeyError('a defect of a consumer'))",
    )
    assert worker.says("Traceback") == 1
    assert worker.says("Connected to") == 1
    assert worker.is_alive()


def test_messages_that_only_look_odd_are_carried_out(place: Place) -> None:
    worker = place.worker("--concurrency", "1")
    body = [[str(place.folder), "lean"], {}, None]
    lean = json.loads(_message(body))
    lean["properties"] = {"delivery_tag": "lean", "body_encoding": "base64"}
    del lean["content-encoding"]
    protocol_1 = {"task": "note", "id": "1", "args": [str(place.folder), "protocol 1"], "kwargs": {}}

    rich = _message(
        [[str(place.folder), "rich"], {}, {}],
        headers={
            "task": "note",
            "id": "2",
            "eta": "2026-01-01T00:00:00",
            "expires": "2999-01-01T00:00:00+00:00",
            "timelimit": [None, 30],
            "retries": 3,
            "shadow": "x",
            "stamped_headers": ["a"],
            "stamps": {"a": ["b"]},
        },
    )

    place.server.ask("LPUSH", "work", json.dumps(lean), rich, _message(protocol_1, without="headers"))

    place.await_effects("note lean", "note rich", "note protocol 1")
    place.await_all_acknowledged()
    assert worker.says("Quarantined") == 0


def test_a_broadcast_that_is_malformed_is_dropped(place: Place) -> None:
    worker = place.worker("--concurrency", "1")
    eventually(lambda: place.server.ask("PUBSUB", "CHANNELS"), "the worker listens")

    for raw in (b'{"a": 1}', b"[]", b"{", b"[" * 100_000):
        assert place.server.ask("PUBLISH", "/0.celery.pidbox", raw) == 1

    eventually(lambda: worker.says("Dropped a malformed broadcast") == 3, "the worker has seen them")
    place.send("note", "next")
    place.await_effects("note next")
    assert worker.says("Connected to") == 1


@pytest.mark.parametrize("raw", [b"{not json", b'{"body": "x"}'], ids=["no JSON", "no properties"])
def test_kombus_own_transport_stumbles_over_a_message_that_makes_no_sense(raw: bytes, place: Place) -> None:
    """When this fails, kombu handles it and `Channel._brpop_read` can be removed."""
    worker = place.worker("--concurrency", "1", kind="stock")

    place.server.ask("LPUSH", "work", raw)

    eventually(lambda: not worker.is_alive() or worker.says("Connection to broker lost"), "the worker stumbled")


def test_the_quarantine_of_a_queue_is_bounded_and_counts_on(place: Place) -> None:
    with place.server.client as client:
        client.lpush("shop:umbel:quarantine:work", *["old"] * quarantine.KEPT_PER_QUEUE)
        client.hset("shop:umbel:quarantine", "work", quarantine.KEPT_PER_QUEUE)
        for number in range(5):
            quarantine.set_aside(client, "shop:", "work", b"%d" % number, "odd")
        quarantine.set_aside(client, "shop:", "other", b"\xff" * (quarantine.KEPT_BYTES + 1), "long")

        found = transport.quarantined(client, "shop:")

        assert found["work"].count == quarantine.KEPT_PER_QUEUE + 5
        assert found["work"].kept == quarantine.KEPT_PER_QUEUE
        assert found["work"].latest is not None
        assert (found["work"].latest.raw, found["work"].latest.reason) == (b"4", "odd")
        assert abs(found["work"].latest.at - time.time()) < 60
        assert found["other"].latest is not None
        assert found["other"].latest.raw == b"\xff" * quarantine.KEPT_BYTES
        assert found["other"].latest.size == quarantine.KEPT_BYTES + 1
        assert transport.quarantined(client) == {}
    with redis.Redis(port=place.server.port, decode_responses=True) as texts:
        assert transport.quarantined(texts, "shop:") == found
