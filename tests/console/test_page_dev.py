"""`umbel dev` and the console page, as seen by a user who has just installed umbel."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

import umbel
from support.eventually import eventually
from umbel.workers.embedded.supervisor import Supervisor

APPROVAL = Path(umbel.__file__).parent / "examples" / "approval.py"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of the page of `umbel dev examples/approval.py`, with its own state folder."""
    log = tmp_path / "log"
    with Supervisor() as supervisor, log.open("wb") as output:
        process = supervisor.spawn(
            [sys.executable, "-m", "umbel.workers.cli", "dev", str(APPROVAL)],
            cwd=tmp_path,
            env=os.environ | {"UMBEL_STATE_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            output=output.fileno(),
            grace_seconds=1,
        )

        def printed() -> str | None:
            assert process.poll() is None, log.read_text()
            found = re.search(r"Console and HTTP API: (http://\S+)", log.read_text())
            return found[1] if found else None

        yield eventually(printed, "umbel dev has printed its address")
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(40) == 0, log.read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"umbel dev has not ended: {log.read_text()}")


def test_a_question_of_the_approval_example_is_answered_on_the_page(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/#/workflows")
    page.get_by_role("link", name="Approval").click()
    page.get_by_label("amount").fill("1200")
    page.get_by_role("button", name="Start a run").click()
    expect(page.get_by_role("heading", name="May 1200.00 euros be spent?")).to_be_visible(timeout=40_000)
    page.get_by_role("radio", name="Yes").check()
    page.get_by_role("textbox", name="by").fill("Ada")
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.locator(".outcome")).to_contain_text('"approved by Ada"')
    page.close()
