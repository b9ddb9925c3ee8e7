"""Messages that are filled in from a template instead of sent through Celery: their content, and when none are."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from celery import signals

from support.store.driving import plan_of, step
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.envelope import START
from umbel.orchestration.store.replies import Dispatch
from umbel.tasks.messages.dispatcher import CeleryDispatcher, publishing_app

PLAN = plan_of(step("go", START))
DISPATCH = Dispatch("r1", "w→ä", 3, "go", "umbel", 0)


@pytest.fixture
def dispatcher() -> CeleryDispatcher:
    return CeleryDispatcher(publishing_app(Settings(redis_url="redis://127.0.0.1:1/0")), Portal("unused"))


def only_message(dispatcher: CeleryDispatcher) -> dict[str, Any] | None:
    messages = dispatcher.messages(PLAN, [DISPATCH])
    if messages is None:
        return None
    [(_, [message])] = messages.items()
    found: dict[str, Any] = json.loads(message)
    return found


def test_a_message_has_the_ids_as_arguments_and_celerys_fields(dispatcher: CeleryDispatcher) -> None:
    message = only_message(dispatcher)

    assert message is not None
    assert message["headers"]["id"] == message["headers"]["root_id"] == "w→ä-3"
    arguments, options, embed = json.loads(base64.b64decode(message["body"]))
    assert (arguments, options) == (["r1", "w→ä", 3], {})
    assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("task_send_sent_event", True), ("broker_use_ssl", {}), ("broker_write_url", "amqp://127.0.0.1")],
)
def test_a_setting_that_takes_more_than_a_push_is_noticed_at_once(
    dispatcher: CeleryDispatcher, name: str, value: object
) -> None:
    assert only_message(dispatcher) is not None

    dispatcher.app.conf[name] = value or {"ssl_cert_reqs": "required"}
    assert only_message(dispatcher) is None

    dispatcher.app.conf[name] = None
    assert only_message(dispatcher) is not None


def test_a_receiver_of_celerys_signals_is_noticed_at_once(dispatcher: CeleryDispatcher) -> None:
    def receiver(**_: object) -> None: ...

    assert only_message(dispatcher) is not None
    signals.before_task_publish.connect(receiver)
    try:
        assert only_message(dispatcher) is None
    finally:
        signals.before_task_publish.disconnect(receiver)
    assert only_message(dispatcher) is not None


def test_messages_and_their_list_follow_the_configuration(dispatcher: CeleryDispatcher) -> None:
    only_message(dispatcher)
    dispatcher.app.conf.update(broker_transport_options={"global_keyprefix": "shop:"}, task_time_limit=7)

    messages = dispatcher.messages(PLAN, [DISPATCH])

    assert messages is not None
    [(key, [message])] = messages.items()
    assert key == "shop:umbel"
    assert json.loads(message)["headers"]["id"] == "w→ä-3"
