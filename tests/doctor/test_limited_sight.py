"""`umbel doctor` on paused work, and with the minimal rights with which umbel works."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

import umbel
from umbel import Runtime, Settings
from umbel.orchestration.connection.redis_client import RIGHTS, connect
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine
from umbel.workers.embedded.redis_server import EmbeddedRedis


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedRedis.temporary() as server:
        yield server.url


def test_what_is_paused_is_named_with_what_resumes_it(url: str) -> None:
    settings = Settings(redis_url=url, key_prefix="paused")
    runtime = Runtime(settings)
    umbel.pause("Order", runtime=runtime)
    umbel.pause(queue="slow", runtime=runtime)

    found = {each.fix: each.text for each in examine(settings, create_app(settings)) if each.about == "paused"}

    assert "Workflow 'Order' is paused since " in found["Resume it: umbel resume --workflow Order"]
    assert "Queue 'slow' is paused since " in found["Resume it: umbel resume slow"]
    runtime.close()


def test_a_user_with_the_fewest_rights_learns_what_it_may(url: str) -> None:
    with connect(url) as operator:
        operator.execute_command("ACL", "SETUSER", "few", "on", ">secret", *RIGHTS.split())
    at = urlsplit(url)
    settings = Settings(redis_url=f"redis://few:secret@{at.hostname}:{at.port}/0")

    found = examine(settings, create_app(settings))

    assert not [each for each in found if each.level == "danger"]
    [note] = [each for each in found if "does not let its user ask" in each.text]
    assert (note.level, "secret" in note.text) == ("note", False)
    assert [each for each in found if each.about == "broker" and each.level == "fine"]
