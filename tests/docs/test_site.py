"""The documentation site: it builds without warnings, and loads nothing from other sites."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import umbel
from support.docs.pages import PAGES, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "scripts/site/mkdocs.yml"]
    built = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_on_the_site_and_can_be_found(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text()

    pages = {page.removeprefix("docs/").removesuffix(".md") for page in PAGES if page.startswith("docs/")} - {"README"}
    assert [page for page in pages if not (site / f"{page}.html").is_file()] == []
    assert [page for page in pages if f"{page}.html" not in index] == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = [page.read_text() for page in (site / "reference").glob("*.html")]
    described = {defined for page in pages for defined in re.findall(r'<h3 id="([\w.]+)"', page)}

    values = [value for name in umbel.__all__ if hasattr(value := getattr(umbel, name), "__qualname__")]
    assert {f"{value.__module__}.{value.__qualname__}" for value in values} <= described


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loads = re.compile(r'<(?:script|img|link|iframe)\b[^>]*(?:src|href)="(https?:)?//[^"]*"')
    found = {page.name: match[0] for page in site.rglob("*.html") if (match := loads.search(page.read_text()))}

    assert found == {}
