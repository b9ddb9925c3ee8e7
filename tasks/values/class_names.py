"""Names of classes in stored data, and finding the classes by name without importing anything.

A name is `module.qualname`. Stored data may come from another release or another program, so a name is looked up only
among the classes that this process has loaded, and only below a root class that the caller passes. While data
from outside are read, `only_classes` restricts the names that can be found.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, TypeVar

T = TypeVar("T")

#: Names that Python gives the main module: in the program itself, and in a spawned child of it.
_MAIN_NAMES = ("__main__", "__mp_main__")

#: Prefix of the names of umbel's own classes. What follows may be a module path of an older release.
_OWN = f"{__name__.partition('.')[0]}."


def module_path(module: str) -> str:
    """The name under which other processes import `module`; only `__main__` has a different one.

    A program started with `python -m shop.flows` is `shop.flows`, one started with `python shop.py` is `shop`.
    A notebook has neither name nor file and stays `__main__`.
    """
    if module not in _MAIN_NAMES:
        return module
    main = sys.modules.get("__main__")
    spec_name = getattr(getattr(main, "__spec__", None), "name", None)
    if isinstance(spec_name, str):
        return spec_name
    file = getattr(main, "__file__", None)
    return PurePath(file).stem if isinstance(file, str) else "__main__"


def qualified_name(cls: type) -> str:
    """`module.qualname` of a class, the same in every process that loads it from the same place.

    A class of umbel itself is `umbel.qualname`, no matter which module defines it, so stored names survive moves.
    """
    if cls.__module__.startswith(_OWN):
        return f"{_OWN}{cls.__qualname__}"
    return f"{module_path(cls.__module__)}.{cls.__qualname__}"


#: The only names that may be looked up; None for all.
_allowed: ContextVar[Container[str] | None] = ContextVar("umbel_allowed_classes", default=None)


@contextmanager
def only_classes(names: Container[str]) -> Iterator[None]:
    """Within the block `loaded_class` finds only these names: for data that may have been written outside."""
    token = _allowed.set(names)
    try:
        yield
    finally:
        _allowed.reset(token)


def is_restricted() -> bool:
    """Whether the data being read may come from outside."""
    return _allowed.get() is not None


def may_be_found(name: str) -> bool:
    """Whether the data being read may name this class."""
    allowed = _allowed.get()
    return allowed is None or name in allowed


def loaded_class(name: str, root: type[T]) -> type[T] | None:
    """The subclass of `root` that has this name in this process, or None; nothing is ever imported.

    It is searched in the loaded modules first; a class that no module holds (defined inside a function, or a
    parametrised generic) is searched among the live subclasses of `root`, newest first.
    """
    if not may_be_found(name):
        return None
    for candidate in _at_path(name):
        if isinstance(candidate, type) and issubclass(candidate, root):
            return candidate
    # The cheap comparison comes first: there may be thousands of subclasses.
    alive = [cls for cls in _subclasses(root) if name.endswith(cls.__qualname__) and _bears(cls, name)]
    return alive[-1] if alive else None


def is_found_by_name(cls: type, like: type | None = None) -> bool:
    """Whether every process that has loaded the module of a class finds it by its name.

    A class that a function defines when it is called exists in one process only, unless the module keeps it.

    Args:
        cls: The class.
        like: A later class of the same name will do if it derives from this one.
    """
    name = qualified_name(cls)
    if name.startswith(_OWN):
        return True
    if any(each is cls or (like and isinstance(each, type) and issubclass(each, like)) for each in _at_path(name)):
        return True
    kept = _namespace(sys.modules.get(cls.__module__)).values()
    return loaded_class(name, object) is cls and any(each is cls for each in kept)


def _bears(cls: type, name: str) -> bool:
    if cls.__module__.startswith(_OWN):
        return name.startswith(_OWN) and name.endswith(f".{cls.__qualname__}")
    return qualified_name(cls) == name


def _at_path(name: str) -> Iterator[Any]:
    """What loaded modules hold at this dotted path, longest module name first."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        for source in dict.fromkeys(["__main__", module] if module == module_path("__main__") else [module]):
            found: Any = sys.modules.get(source)
            for part in parts[cut:]:
                found = _namespace(found).get(part)
            yield found


def _namespace(owner: object) -> Mapping[str, Any]:
    """The owner's own names. Not getattr, which makes a lazy module import."""
    try:
        names: Mapping[str, Any] = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return {}
    return names


def _subclasses(root: type[T]) -> list[type[T]]:
    """`root` and all its live subclasses; subclasses of the same class are in order of definition."""
    # By identity: a metaclass may define equality, as one in typing does, about which Python 3.14 warns.
    found, seen = [root], {id(root)}
    for cls in found:  # grows on the way
        new = [sub for sub in type.__subclasses__(cls) if id(sub) not in seen]
        found.extend(new)
        seen.update(map(id, new))
    return found
