"""Passwords are never shown: not in settings, errors, tracebacks, logs, monitors or findings.

Payloads are tested in `tests/security/test_nothing_leaks.py`; the texts of single errors also in
`tests/processes/test_bad_input.py`, `tests/doctor/test_doctor.py` and `tests/transport/test_transport_contract.py`.
"""

from __future__ import annotations

import io
import traceback

import pytest
from rich.console import Console
from rich.pretty import pretty_repr
from rich.traceback import Traceback

from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.connection.settings import Settings, redact_url
from umbel.orchestration.model.errors import ConfigurationError
from umbel.tasks.client.runtime import Runtime
from umbel.tasks.messages.dispatcher import publishing_app
from umbel.workers.celery_app.app import create_app

SECRET = "hunter2secret"

URLS = [
    "redis://:{}@here:6379/0",
    "redis://user:{}@here:6379/0",
    "rediss://user:{}@here:6379/0?ssl_ca_certs=/ca.pem",
    "redis://user:{}@here:port/0",
    "redis://user:a@{}@here/0",
    "redis://user:a/{}@here/0",
    "redis://user:a?{}@here/0",
    "redis://user:a#{}@here/0",
    "redis://user:a;{}@here/0",
    "redis://:a@b#{}@here/0",
    "redis://:a@b/{}@here/0",
    "redis://:a@b?{}=1@here/0",
    "redis://:a@b#c/{}@here/0",
    "redis://:a@b#c\n{}@here/0",
    "redis://us/er:{}@here/0",
    "redis://us@er:{}@here/0",
    "redis://here:6379/0?password={}",
    "redis://here:6379/0?db=1&password={}&protocol=2",
    "rediss://here:6379/0?ssl_password={}",
    "unix://:{}@/run/redis.sock?db=0",
    "unix:///run/redis.sock?password={}",
    "sentinel://:{}@one:26379;sentinel://:{}@two:26379",
    "amqp://guest:{}@here//",
    "AMQP://guest:{}@here//",
    "redis://me:{}@one,redis://me:{}@two",
    "REDIS://me:{}@one;REDIS://me:{}@two",
    "redis:me:{}@here:6379",
    "redis:/:{}@here:6379/0",
    "me:{}@here:6379",
    "{}@here",
    "redis\n://me:{}@here",
    "h2://me:{}@here",
    "here:6379,password={},ssl=True",
]


@pytest.mark.parametrize("url", URLS)
def test_a_password_in_a_url_is_not_shown(url: str) -> None:
    shown = redact_url(url.replace("{}", SECRET))

    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "url",
    ["redis://here:6379/0", "redis://user@here/0", "rediss://here/1?ssl_ca_certs=/ca.pem", "unix:///run/redis.sock"],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert redact_url(url) == url


def test_what_is_shown_still_says_where_the_server_is() -> None:
    assert redact_url(f"redis://me:{SECRET}@here:6379/0?db=1") == "redis://me:***@here:6379/0?db=1"


def settings() -> Settings:
    return Settings(redis_url=f"redis://:{SECRET}@here/0", broker_url=f"amqp://me:{SECRET}@there//")


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, pretty_repr])
def test_settings_show_no_password(show) -> None:  # type: ignore[no-untyped-def]
    shown = show(settings())

    assert SECRET not in shown
    assert "here" in shown
    assert "there" in shown


def test_a_traceback_with_local_variables_shows_no_password() -> None:
    """Like rich and other reporters that show the values of variables."""

    def fail(given: Settings) -> None:
        raise RuntimeError("failed")

    text = io.StringIO()
    made = settings()
    try:
        fail(made)
    except RuntimeError:
        Console(file=text, width=200).print(Traceback(show_locals=True))

    assert "RuntimeError" in text.getvalue()
    assert "given" in text.getvalue()
    assert SECRET not in text.getvalue()


def refusals() -> dict[str, dict[str, str]]:
    url = f"redis://:{SECRET}@here/0"
    return {
        "times that do not fit together": {"UMBEL_REDIS_URL": url, "UMBEL_LEASE_SECONDS": "1"},
        "a value that does not fit": {"UMBEL_REDIS_URL": url, "UMBEL_SHARDS": SECRET},
        "TLS that is not verified": {"UMBEL_REDIS_URL": f"rediss://:{SECRET}@here/0?ssl_cert_reqs=none"},
    }


@pytest.mark.parametrize("what", refusals())
def test_settings_that_are_refused_are_not_quoted_with_a_password(what: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_environment(refusals()[what])

    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("url", [url for url in URLS if url.startswith(("redis:", "rediss:")) and "port" in url])
def test_an_invalid_url_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect(url.replace("{}", SECRET))

    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_password_that_is_taken_for_a_port_is_not_quoted() -> None:
    """In `redis://:pa/ss@here`, the text before the slash looks like a port, and Python's error quotes it."""
    with pytest.raises(ConfigurationError, match="write / . # @ % in its password as %2F") as refused:
        connect(f"redis://:{SECRET}/more@here:6379/0")

    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_what_holds_connections_shows_no_password() -> None:
    url = f"redis://:{SECRET}@127.0.0.1:1/0"
    runtime, client = Runtime(Settings(redis_url=url)), connect(url)
    shown = [runtime, runtime.store, runtime.store.connection, client, client.connection_pool, runtime.dispatcher]

    assert SECRET not in "".join(map(repr, shown))
    runtime.close()


def test_celery_apps_show_no_password() -> None:
    for app in (create_app(settings()), publishing_app(settings())):
        with app.connection_for_write() as connection:
            shown = [repr(app), repr(connection), connection.as_uri(), app.conf.humanize(with_defaults=False)]
        assert SECRET not in "".join(shown)
