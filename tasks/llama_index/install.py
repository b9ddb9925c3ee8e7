"""Makes `import workflows` load umbel's modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from ...orchestration.model.errors import ConfigurationError
from .names import MODULES
from .workflow import LlamaIndexWorkflow

#: The two names of LlamaIndex Workflows' package.
_ROOTS = ("workflows", "llama_agents.workflows")
#: The parent package of the second one; it exists only if another part of it is installed.
_AROUND = "llama_agents"
_OWN = __name__.partition(".")[0]


def install() -> None:
    """Make `workflows` and `llama_agents.workflows` umbel's modules in this process.

    Programs and agents that were written for LlamaIndex then run on umbel unchanged. Call it before anything imports
    `workflows`, `llama_agents.workflows` or `llama_index`; calling it again does nothing.

    Raises:
        ConfigurationError: LlamaIndex Workflows itself is imported already. Nothing was changed.
    """
    if is_installed():
        return
    loaded = [name for name in (*_ROOTS, "llama_index.core.workflow") if name in sys.modules]
    if loaded:
        raise ConfigurationError(
            f"umbel.llama_index.install() comes too late: {loaded[0]} is imported already, and classes that derive "
            "from it cannot be changed. Call it before the first import of workflows or llama_index, or leave it out "
            "and start the program with `umbel exec --llama-index`."
        )
    sys.meta_path.insert(0, _Finder())
    # No problem here: agents are pydantic models that derive from the generic `Workflow`, never with type arguments.
    warnings.filterwarnings("ignore", "Classes should inherit from `BaseModel` before generic classes")
    if importlib.util.find_spec("llama_index_instrumentation") is not None:
        spans = importlib.import_module(f"{__package__}.spans")
        LlamaIndexWorkflow._instrumentation = spans.Spans()


def is_installed() -> bool:
    """Whether `install()` was called in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


class _Finder(MetaPathFinder):
    """Finds the modules of LlamaIndex Workflows in umbel. Other modules of that package are not found at all.

    If some of its modules were LlamaIndex's own, `isinstance` would fail between their classes and umbel's.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module under one of the roots; None for any other."""
        if fullname == _AROUND and PathFinder.find_spec(fullname) is None:
            return ModuleSpec(fullname, None, is_package=True)
        for root in _ROOTS:
            if fullname == root or fullname.startswith(f"{root}."):
                return self._spec(fullname, fullname[len(root) + 1 :])
        return None

    @staticmethod
    def _spec(fullname: str, name: str) -> ModuleSpec:
        if name not in MODULES:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: umbel answers for {fullname.removesuffix(name).rstrip('.')} since "
                "umbel.llama_index.install() was called, and has no such module.",
                name=fullname,
            )
        is_package = any(other.startswith(f"{name}.") for other in MODULES) or not name
        return ModuleSpec(fullname, _Loader(name), is_package=is_package)


class _Loader(Loader):
    """Makes a module with the names of the umbel module that stands for it."""

    def __init__(self, name: str) -> None:
        """Args:
        name: Dotted name below the root.
        """
        self._name = name

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        source, own = MODULES[self._name]
        umbels = None if source is None else importlib.import_module(f"{_OWN}.{source}" if source else _OWN)
        names = vars(module)
        if umbels is not None:
            names.update({name: value for name, value in vars(umbels).items() if not name.startswith("__")})
            module.__doc__ = umbels.__doc__
        names.update(own)
        names["__all__"] = sorted({*getattr(umbels, "__all__", ()), *(name for name in own if name[0] != "_")})

        def missing(name: str) -> Any:
            # Names that umbel's module creates on access.
            if umbels is None:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return getattr(umbels, name)

        names["__getattr__"] = missing
