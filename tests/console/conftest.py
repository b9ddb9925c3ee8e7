"""One deployment, one server and one browser for all console tests."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.console import flows as console_flows
from support.console.driving import CHROMIUM_ARGUMENTS, Keep, Site
from support.console.serving import Serving
from support.store.blocking import store_of
from umbel import Settings
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.redis_server import EmbeddedRedis


@pytest.fixture(autouse=True)
def default_runtime(deployment: Runtime) -> Iterator[None]:
    """The deployment as the default runtime, even if other tests have changed it."""
    with deployment.registering():
        yield


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis."""
    with EmbeddedRedis.temporary() as server:
        yield server.url


@pytest.fixture
def runtime(redis_url: str) -> Iterator[Runtime]:
    """Its own deployment, without workers."""
    made = Runtime(Settings(redis_url=redis_url, key_prefix=f"c{secrets.token_hex(5)}"))
    yield made
    made.close()


@pytest.fixture
def keep(runtime: Runtime) -> Keep:
    """Writes many runs of any status: the record and the index, without work to execute."""
    store = store_of(runtime)

    def make(run_id: str, status: str = "completed", *, workflow: str = "shop.Order", at: int = 1_000) -> str:
        keys = store.locate(run_id)
        record: dict[str, str | int] = {"status": status, "workflow": workflow, "created_at": at, "live": 1}
        if status != "running":
            record["ended_at"] = at
        store.client.hset(keys["run"], mapping=record)  # type: ignore[arg-type]
        store.client.zadd(keys[f"runs:{status}"], {run_id: at})
        return run_id

    return make


@pytest.fixture
def word() -> str:
    """A word that no other run has in its id, input or error, so that a search finds only this test's runs."""
    return secrets.token_hex(8)


@pytest.fixture
def gates() -> Iterator[set[str]]:
    """Gates of the workflows; all are open before and after the test."""
    console_flows.CLOSED.clear()
    yield console_flows.CLOSED
    console_flows.CLOSED.clear()


# -- a server and a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(deployment: Runtime) -> Iterator[Site]:
    """A real server of the workflows, with the session's worker."""
    with Serving(deployment) as made:
        yield made


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("There is no Chromium here; `apt-get install chromium` brings one.")
    return path


# Playwright's sync API keeps an event loop running in this thread while it is open, which conflicts with asynchronous
# tests and runs started here. So it is open for one file at a time, and its tests start runs over HTTP.
@pytest.fixture(scope="module")
def browser(site: Site, chromium: str) -> Iterator[Browser]:
    """A real Chromium."""
    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(site: Site, browser: Browser, gates: set[str]) -> Iterator[Page]:
    """A new tab; errors of its scripts fail the test."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1400, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    foreign: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    own = ("http://127.0.0.1:", "data:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else foreign.append(asked.url))
    page.set_default_timeout(15_000)
    yield page
    context.close()
    assert not [each for each in complaints if "Failed to load resource" not in each]
    assert not foreign, "the page asks other hosts"
