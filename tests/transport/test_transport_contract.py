"""How the Redis transport is selected, and the kombu and Celery code that it depends on."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest
import redis
from celery.worker.request import Request
from kombu.transport import redis as stock
from kombu.transport import virtual

from umbel.orchestration.model.errors import ConfigurationError
from umbel.workers.transport import channel as transport
from umbel.workers.transport import unacked

#: umbel's class -> the one it overrides.
OVERRIDDEN: dict[type, type] = {
    transport.Connection: kombu.Connection,
    transport.Message: virtual.Message,
    transport.Channel: stock.Channel,
    transport.Transport: stock.Transport,
    unacked.QoS: stock.QoS,
}

#: Code that is overridden, replaced as a whole or relied on -> the first digits of the SHA-256 of its source.
SOURCES = {
    "celery.app.base:Celery._connection": "8c73001d4137",
    "celery.concurrency.thread:TaskPool.on_apply": "5b5ead7fb32e",
    "celery.worker.consumer.consumer:Consumer.on_close": "e96d425dce0a",
    "celery.worker.consumer.consumer:Consumer.on_connection_error_after_connected": "4f84dbfff329",
    "celery.worker.request:Request.acknowledge": "60dad9ce9c39",
    "celery.worker.request:Request.on_accepted": "7bd097a863da",
    "celery.worker.state:maybe_shutdown": "e15d0ed41e2c",
    "celery.worker.state:task_ready": "ad25f2985520",
    "celery.worker.strategy:default": "7d90575ada5e",
    "kombu.connection:Connection.get_transport_cls": "6c439e6b9759",
    "kombu.compression:get_decoder": "c2e1715b16f0",
    "kombu.message:Message.__init__": "bd56cb3ffa7a",
    "kombu.message:Message._decode": "e59b229fecb5",
    "kombu.transport.redis:Channel.__init__": "f189bdebe243",
    "kombu.transport.redis:Channel._brpop_read": "c42518699709",
    "kombu.transport.redis:Channel._connparams": "e9a4295085a8",
    "kombu.transport.redis:Channel._create_client": "dae92bc4075d",
    "kombu.transport.redis:Channel._deliver_fanout_message": "06662335a70a",
    "kombu.transport.redis:Channel._disconnect_pools": "db50da048a22",
    "kombu.transport.redis:Channel._do_restore_message": "8b430df94e45",
    "kombu.transport.redis:Channel._get": "be26a9f1eb4c",
    "kombu.transport.redis:Channel._get_pool": "d6e689f654ff",
    "kombu.transport.redis:Channel._receive_one": "d59b8751d897",
    "kombu.transport.redis:Channel._subscribe": "e2d449e9f594",
    "kombu.transport.redis:Channel._unsubscribe_from": "a38e28b345ca",
    "kombu.transport.redis:Channel.close": "101e9b9cdad4",
    "kombu.transport.redis:Channel.conn_or_acquire": "25883caca6c4",
    "kombu.transport.redis:MultiChannelPoller.maybe_restore_messages": "6c267815d521",
    "kombu.transport.redis:MultiChannelPoller.on_poll_init": "0a605e782492",
    "kombu.transport.redis:QoS.__init__": "77545b203b86",
    "kombu.transport.redis:QoS.ack": "1bc15a4ddf54",
    "kombu.transport.redis:QoS.append": "35c655f6ecc6",
    "kombu.transport.redis:QoS.reject": "747a02434344",
    "kombu.transport.redis:QoS.restore_by_tag": "58e161d81b6f",
    "kombu.transport.redis:QoS.restore_unacked": "8954efef014d",
    "kombu.transport.redis:QoS.restore_visible": "d4a4a40a3eaf",
    "kombu.transport.redis:get_redis_error_classes": "deef99274f24",
    "kombu.transport.virtual.base:Channel.basic_consume": "0fec96269493",
    "kombu.transport.virtual.base:Channel.close": "26368e1cadfc",
    "kombu.transport.virtual.base:Message.__init__": "c90d08ccfa2e",
    "kombu.transport.virtual.base:QoS.ack": "0714292b916f",
    "kombu.transport.virtual.base:QoS.append": "b388f0cd6485",
    "kombu.transport.virtual.base:QoS.restore_unacked_once": "c81f3d0fb29b",
    "kombu.transport.virtual.base:Transport._deliver": "799e242f3ec5",
}


def _app(broker: str, **settings: Any) -> celery.Celery:
    app = celery.Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(settings)
    return app


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@here:1234/5", "redis://:**@here:1234/5"),
        ("rediss://here:1234/5?ssl_cert_reqs=required", "rediss://:**@here:1234/5"),
        ("redis://here:1234/5;redis://there:1234/5", "redis://:**@here:1234/5"),
        ("redis+socket:///there.sock", "redis+socket:///there.sock"),
    ],
)
def test_redis_brokers_keep_their_url_and_get_this_transport(url: str, shown: str) -> None:
    app = _app(url)

    transport.use_transport(app)
    transport.use_transport(app)

    connection = app.connection_for_read()
    assert connection.get_transport_cls() is transport.Transport
    assert connection.clone().get_transport_cls() is transport.Transport
    assert connection.as_uri() == shown
    assert bool(connection.ssl) == url.startswith("rediss")


def test_a_failover_keeps_this_transport() -> None:
    app = _app("redis://here:1234/5;redis://there:1234/5")
    transport.use_transport(app)
    connection = app.connection_for_read()

    connection.maybe_switch_next()

    assert connection.hostname == "there"
    assert connection.get_transport_cls() is transport.Transport


@pytest.mark.parametrize("url", ["sentinel://here:26379", "amqp://here", "memory://"])
def test_other_brokers_stay_with_kombu(url: str) -> None:
    app = _app(url)
    expected = app.connection_for_read().get_transport_cls()

    transport.use_transport(app)

    assert app.connection_for_read().get_transport_cls() is expected


def test_apps_that_were_not_asked_for_stay_with_kombu() -> None:
    transport.use_transport(_app("redis://here"))

    assert _app("redis://here").connection_for_read().get_transport_cls() is stock.Transport


def test_the_setting_alone_selects_this_transport() -> None:
    connection = _app("redis://here:1234/5", broker_transport=transport.TRANSPORT).connection_for_read()

    assert connection.get_transport_cls() is transport.Transport
    assert connection.as_uri() == "redis://:**@here:1234/5"


def test_an_app_with_a_connection_class_of_its_own_gets_an_error_that_names_the_setting() -> None:
    class OwnConnection(kombu.Connection):
        pass

    app = _app("redis://here")
    app.amqp.Connection = OwnConnection

    with pytest.raises(
        ConfigurationError, match=r"OwnConnection.* Set broker_transport='umbel\.workers\.transport:Transport' instead"
    ):
        transport.use_transport(app)


def _digest(name: str) -> str:
    module, _, path = name.partition(":")
    found = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]


def _defined(ours: type) -> list[str]:
    return [name for name, value in vars(ours).items() if inspect.isfunction(value)]


def test_the_code_this_rests_on_is_as_it_was_when_this_was_written() -> None:
    changed = {name: _digest(name) for name in SOURCES if _digest(name) != SOURCES[name]}

    assert not changed, "See what changed there, follow it in umbel.workers, then renew the digests in SOURCES."


@pytest.mark.parametrize("ours", OVERRIDDEN, ids=lambda ours: ours.__name__)
def test_every_override_is_watched_and_takes_what_kombu_gives(ours: type) -> None:
    theirs = OVERRIDDEN[ours]
    for name in _defined(ours):
        if overridden := getattr(theirs, name, None):
            key = f"{overridden.__module__}:{overridden.__qualname__}"
            assert key in SOURCES
            assert list(inspect.signature(getattr(ours, name)).parameters) == list(
                inspect.signature(overridden).parameters
            ), key


def test_no_override_has_lost_its_counterpart() -> None:
    new = {
        transport.Channel: {"_fetch_dispatches", "admit", "set_aside", "_task_fault"},
        transport.Message: {"_checked"},
        unacked.QoS: {"settle", "_file", "_file_dispatches", "_send_acks", "_release_if_settled", "append_direct"},
    }
    for ours, theirs in OVERRIDDEN.items():
        without = {name for name in _defined(ours) if not hasattr(theirs, name)}
        assert without == new.get(ours, set()), ours


def test_celerys_requests_show_how_far_they_are() -> None:
    assert (Request.time_start, Request.acknowledged, Request._apply_result) == (None, False, None)


def test_error_replies_are_a_reason_to_reconnect() -> None:
    assert issubclass(redis.ReadOnlyError, transport.Transport.connection_errors)
    assert issubclass(redis.OutOfMemoryError, transport.Transport.connection_errors)
    assert not issubclass(redis.DataError, transport.Transport.connection_errors)


@pytest.mark.skipif(kombu.__version__ != "5.7.0", reason="the lines are those of kombu 5.7.0")
def test_the_lines_named_in_the_documentation_are_the_right_ones() -> None:
    folder = Path(stock.__file__).parent
    lines = (transport.__doc__ or "").split("- `")[1:]
    assert len(lines) > 10
    for paragraph in lines:
        named = re.findall(r"`?([\w.]+)` \(([\w./]+):(\d+)\)", paragraph)
        assert named, paragraph
        for name, file, number in named:
            line = (folder / file).read_text().splitlines()[int(number) - 1]
            method = name.rpartition(".")[2]
            assert f"def {method}(" in line or (method == "connection_errors" and "def get_redis_error_classes" in line)
