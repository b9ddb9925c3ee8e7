"""The Django recipe of the documentation: a project with those files, Celery's own worker, `manage.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.docs.pages import blocks
from support.docs.served import Served
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

SETTINGS = """
import os

SECRET_KEY = "of this test"
INSTALLED_APPS = ["django.contrib.contenttypes", "shop.apps.ShopConfig"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}}
CELERY_BROKER_URL = os.environ["BROKER"]
"""

#: The code of a view.
VIEW = """
from shop.flows import Order

print(Order().start(customer="ada").result(30))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for block in blocks("docs/running-in-production.md"):
        if (named := re.match(r"# ((?:proj|shop)/\w+\.py)", block.text)) is not None:
            file = tmp_path / named[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
    (tmp_path / "proj" / "settings.py").write_text(SETTINGS)
    (tmp_path / "shop" / "__init__.py").touch()
    return tmp_path


@pytest.fixture
def environment(project: Path) -> Iterator[dict[str, str]]:
    with EmbeddedRedis.temporary() as server:
        yield {
            "BROKER": server.url,
            "UMBEL_REDIS_URL": server.url,
            "DATABASE": str(project / "db.sqlite3"),
            "DJANGO_SETTINGS_MODULE": "proj.settings",
            "PYTHONPATH": str(project),
        }


@pytest.mark.timeout(150)
def test_a_run_started_by_the_project_is_executed_by_celerys_worker(project: Path, environment: dict[str, str]) -> None:
    def manage(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=project,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    manage("migrate")
    command = [sys.executable, "-m", "celery", "-A", "proj", "worker", "--concurrency", "1", "--loglevel", "INFO"]
    with Supervisor() as supervisor, Served(supervisor, project, "worker", command, environment) as worker:
        worker.says(" ready.")
        assert "1 kinds of objects, for ada" in manage("shell", "-c", VIEW)
