"""A digest of a workflow's code, by which processes detect that their code differs, and the names that it mentions."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from weakref import WeakKeyDictionary

_PACKAGE = Path(__file__).parents[2]
#: Code in these folders is installed or is umbel's own; users do not edit it.
_INSTALLED = tuple(
    {
        *(f"{path}/" for name, path in sysconfig.get_paths().items() if "lib" in name),
        *(f"{_PACKAGE / floor}/" for floor in ("orchestration", "tasks", "workers", "server")),
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """The code of a workflow.

    Attributes:
        file: The file that defines its class.
        digest: A digest of that file and of the user's own modules that it uses, in their current version.
    """

    file: str
    digest: str


def source_of(cls: type) -> Source | None:
    """The code of a workflow class; None if it is not in a file, as in a notebook."""
    own = _file_of(sys.modules.get(cls.__module__))
    if own is None:
        return None
    found = hashlib.sha256()
    for name, text in sorted(_modules_of(cls).items()):
        found.update(f"{name}\0".encode() + text + b"\0")
    return Source(str(Path(own).resolve()), found.hexdigest()[:16])


def user_files() -> set[Path]:
    """The files of all imported modules that belong to the user."""
    return {Path(file) for module in list(sys.modules.values()) if (file := _file_of(module)) is not None}


def _modules_of(cls: type) -> dict[str, bytes]:
    """The user's modules that a class uses: its own, those of its bases, and what they import, recursively."""
    found: dict[str, bytes] = {}
    open_ends = {each.__module__ for each in cls.__mro__}
    while open_ends:
        name = open_ends.pop()
        module = sys.modules.get(name)
        file = _file_of(module)
        if module is None or file is None:
            continue
        with suppress(
            OSError, SyntaxError, ValueError
        ):  # the file was removed, or changed to invalid code, after it was imported
            found[name] = b""
            found[name] = Path(file).read_bytes()
            open_ends |= set(_imported(ast.parse(found[name]), module.__package__ or "")) - found.keys()
    return found


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The names of modules that a module imports at import time, and some names that are not modules."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.Import):
            yield from (name.name for name in each.names)
        elif isinstance(each, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - each.level + 1] if each.level else []
            origin = ".".join([*above, *([each.module] if each.module else [])])
            yield from (origin, *(f"{origin}.{name.name}" for name in each.names))
        elif not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imported(each, package)


def _file_of(module: ModuleType | None) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") and not file.startswith(_INSTALLED) else None


_PACKAGE_NAME = f"{__name__.partition('.')[0]}."
#: Cache of `uses_start_event`.
_uses_start_event: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def uses_start_event(cls: type) -> bool:
    """Whether a method of the class, or a function of its module, mentions `start_event`."""
    if (found := _uses_start_event.get(cls)) is None:
        module = sys.modules.get(cls.__module__)
        functions = [*vars(module).values()] if module is not None else []
        for each in cls.__mro__:
            # umbel's own code mentions it too
            functions += [] if each.__module__.startswith(_PACKAGE_NAME) else vars(each).values()
        found = _uses_start_event[cls] = any(
            isinstance(each, FunctionType) and mentions(each, "start_event") for each in functions
        )
    return found


def mentions(function: object, name: str) -> bool:
    """Whether a function's own code mentions an attribute or global of this name."""
    return _in_code(getattr(function, "__code__", None), name)


def _in_code(code: CodeType | None, name: str) -> bool:
    if code is None:
        return False
    return name in code.co_names or any(
        _in_code(inner, name) for inner in code.co_consts if isinstance(inner, CodeType)
    )
