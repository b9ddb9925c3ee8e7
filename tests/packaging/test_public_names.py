"""The public interface: its names, docstrings and version, and that the package contains all of it."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import umbel
from support.docs.pages import ROOT
from umbel import errors
from umbel.tasks.values.class_names import loaded_class, qualified_name

FOLDERS = ("orchestration", "server", "tasks", "workers")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: The folders of names that are installed directly below `umbel`.
PUBLIC = {
    path.relative_to(folder).parent.as_posix().replace("/", "."): path.relative_to(ROOT).parent.as_posix()
    for folder in (ROOT / "server" / "public", ROOT / "tasks" / "public")
    for path in folder.rglob("*/__init__.py")
}
PUBLIC_MODULES = sorted(PUBLIC)

MODULES = sorted(
    ["umbel", *(f"umbel.{name}" for name in PUBLIC_MODULES)]
    + [f"umbel.{folder}" for folder in FOLDERS]
    + [
        each.name
        for folder in FOLDERS
        for each in pkgutil.walk_packages([str(ROOT / folder)], prefix=f"umbel.{folder}.")
        if not each.name.startswith(("umbel.server.public", "umbel.tasks.public"))
    ]
)


# -- names -------------------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_and_each_is_there_once() -> None:
    assert umbel.__all__ == sorted(set(umbel.__all__))


def test_the_public_names_are_all_that_their_module_imports() -> None:
    tree = ast.parse((ROOT / "public_names.py").read_text())
    imported = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]

    assert sorted(imported) == umbel.__all__


@pytest.mark.parametrize("name", umbel.__all__)
def test_a_public_name_says_what_it_is(name: str) -> None:
    found = getattr(umbel, name)

    assert found.__module__.startswith("umbel.")
    assert (found.__doc__ or "").strip(), f"umbel.{name} has no docstring of its own"
    if inspect.isclass(found):
        undocumented = [
            member
            for member, value in vars(found).items()
            if not member.startswith("_")
            and isinstance(value, (property, classmethod, staticmethod)) | inspect.isfunction(value)
            and not inspect.getdoc(getattr(found, member))
        ]
        assert undocumented == []


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_a_public_module_offers_what_it_lists_sorted(name: str) -> None:
    module = importlib.import_module(f"umbel.{name}")

    assert module.__all__ == sorted(set(module.__all__))
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


def test_the_function_and_the_module_retry_policy_share_their_name() -> None:
    module = importlib.import_module("umbel.retry_policy")
    policy = umbel.retry_policy(wait=module.wait_fixed(2))

    assert policy == module.retry_policy(wait=module.wait_fixed(2))
    assert policy.next(0, 1, ValueError()) == 2


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for(name: str) -> None:
    assert (importlib.import_module(name).__doc__ or "").strip()


def test_errors_of_umbel_are_below_one_class() -> None:
    errors = [each for each in vars(umbel).values() if inspect.isclass(each) and issubclass(each, Exception)]

    # It stands for a user's own exception, which is not an umbel error.
    assert [each for each in errors if not issubclass(each, umbel.UmbelError)] == [umbel.UnreconstructedException]


@pytest.mark.parametrize(
    "cls",
    [*(getattr(errors, name) for name in errors.__all__), umbel.UnreconstructedException],
    ids=lambda cls: str(cls.__name__),
)
def test_tracebacks_and_pickles_name_an_error_as_users_import_it(cls: type[Exception]) -> None:
    assert cls.__module__ in ("umbel.errors", "umbel.events")
    assert getattr(importlib.import_module(cls.__module__), cls.__name__) is cls
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_an_error_is_found_by_the_name_in_its_traceback_where_only_umbel_is_imported() -> None:
    program = "import umbel; assert umbel.errors.RunNotFound is umbel.RunNotFound; "
    program += "print([hasattr(umbel, name) for name in ('errrors', 'errors.Nothing', '')])"

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.stdout, ended.stderr) == ("[False, False, False]\n", "")


def test_stored_data_name_errors_as_they_always_have() -> None:
    assert qualified_name(errors.RunNotFound) == "umbel.RunNotFound"
    for name in ("umbel.RunNotFound", "umbel.orchestration.model.errors.RunNotFound"):
        assert loaded_class(name, Exception) is errors.RunNotFound


# -- version and packaging ---------------------------------------------------------------------------------------------


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest is not None
    assert newest[1] == PROJECT["project"]["version"]


def test_every_folder_of_modules_is_packed() -> None:
    packages = {name for name in MODULES if is_package(name)}
    scripts = {
        "umbel.orchestration.store.lua",
        "umbel.orchestration.store.lua.lib",
    }  # data folders, which setuptools lists too
    packages |= {f"umbel.{name}" for name in PUBLIC_MODULES}

    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(packages | scripts)


def test_the_public_modules_are_installed_below_umbel() -> None:
    places = PROJECT["tool"]["setuptools"]["package-dir"]

    assert places == {"umbel": "."} | {f"umbel.{name}": folder for name, folder in PUBLIC.items()}


def is_package(name: str) -> bool:
    return (ROOT / Path(*name.split(".")[1:]) / "__init__.py").is_file()


def test_every_file_that_is_no_module_is_packed() -> None:
    packed = {
        path
        for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    there = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    there = {path for path in there if path.suffix not in (".py", ".pyc")}

    assert there <= packed
