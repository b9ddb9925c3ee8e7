"""A plain install has everything that is imported: extra packages of the development environment hide nothing."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import umbel

PROJECT = tomllib.loads((Path(umbel.__file__).parent / "pyproject.toml").read_text())["project"]

#: Imports modules as if only the given distributions were installed.
PROGRAM = """
import importlib, importlib.metadata, json, re, sys
from importlib.abc import MetaPathFinder

installed = set(json.loads(sys.argv[1]))
owners = importlib.metadata.packages_distributions()


class Plain(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        of = owners.get(name.partition(".")[0])
        if of and not installed & {re.sub(r"[-_.]+", "-", owner).lower() for owner in of}:
            raise ModuleNotFoundError(f"No module named {name!r} in a plain install", name=name)


sys.meta_path.insert(0, Plain())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(requirements: list[str]) -> set[str]:
    """Return all distributions that these requirements install."""
    found: set[tuple[str, str]] = set()
    todo = [(Requirement(text), "") for text in requirements]
    names = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = normal(requirement.name)
        names.add(name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in found:
                found.add((name, wanted))
                needed = metadata.requires(name) or []
                todo += [(Requirement(text), wanted) for text in needed]
    return names


@pytest.mark.parametrize(
    ("modules", "extras"),
    [
        (
            [
                "umbel",
                "umbel.workers.celery_app.app",
                "umbel.workers.transport.channel",
                "umbel.workers.pool.taskpool",
                "kombu.transport.redis",
            ],
            [],
        ),
        (["umbel.workers.cli.start.worker", "umbel.workers.cli.start.dev", "umbel.workers.doctor.examine"], []),
        (["umbel.server", "umbel.workers.cli.start.serve"], ["server"]),
        (["flower.command", "flower.urls"], ["flower"]),
    ],
    ids=["worker", "commands", "server", "flower"],
)
def test_everything_that_is_imported_is_a_dependency(modules: list[str], extras: list[str]) -> None:
    declared = PROJECT["dependencies"] + [each for name in extras for each in PROJECT["optional-dependencies"][name]]
    installed = json.dumps(sorted(installed_with(declared) | {"umbel", "setuptools"}))
    command = [sys.executable, "-c", PROGRAM, installed, *modules]

    done = subprocess.run(command, capture_output=True, text=True, timeout=110)

    assert done.returncode == 0, done.stderr
