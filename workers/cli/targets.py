"""TARGET: how the command line names workflows, and how they are loaded.

    package.module            all workflows of a module
    package.module:Order      one of them
    path/to/file.py           all workflows of a file
    path/to/file.py:Order     one of them

A module is always imported under its real name, as every other process would import it: a file in a package has the
package's name in front, and the `if __name__ == "__main__"` part of a script does not run. So a workflow has the same
name here, in the worker and in the program that starts runs.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn, TypeVar

import click

from ...orchestration.model.errors import ConfigurationError
from ...tasks.client.workflow import Workflow
from ...tasks.llama_index.install import install
from ...tasks.steps.discovery import steps_of
from ...tasks.workflow.registry import Registrable, Registry, declared

#: Packages in which the base class of LlamaIndex's workflows is defined.
_LLAMA_INDEX = ("workflows", "llama_agents")
_FORMS = "Expected package.module:Workflow or path/file.py:Workflow, without `:Workflow` for all workflows in it."


F = TypeVar("F", bound=Callable[..., object])


class TargetError(ConfigurationError):
    """A TARGET cannot be loaded; the message says what was looked for and what was found."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed TARGET.

    Attributes:
        text: The text as given.
        file: The file, if the text names one.
        module: The dotted name to import.
        root: The folder that must be on `sys.path`.
        name: The name within the module; None for all workflows.
    """

    text: str
    file: Path | None
    module: str
    root: Path
    name: str | None


def load_targets(texts: Iterable[str]) -> list[Registrable]:
    """Load several targets; see `load_target`. A workflow that several targets name appears once."""
    found: dict[int, Registrable] = {}
    for text in texts:
        found.update((id(each), each) for each in load_target(text))
    return list(found.values())


def load_target(text: str) -> list[Registrable]:
    """Import a target and find its workflows.

    An instance replaces its class: preferably one that any loaded module passed to `umbel.register()`, else one in the
    module. Classes are not built here, so that their mistakes can be reported one by one.

    Raises:
        TargetError: The file or module does not exist, the import fails, or it has no such workflow.
        WorkflowValidationError: A registered factory does not return a workflow.
    """
    target = parse_target(text)
    known = len(declared)
    module = _import(target)
    if target.name is not None:
        return [_preferred(_named(target, module, target.name))]
    own = [each for each in declared[:known] if each.__module__ == module.__name__]
    return _all_in(target, module, [*own, *declared[known:]])


def load_module(text: str) -> tuple[Target, ModuleType]:
    """Import a target's module.

    Raises:
        TargetError: The file or module does not exist, or the import fails.
    """
    target = parse_target(text)
    return target, _import(target)


def companions(texts: Iterable[str]) -> list[Registrable]:
    """The workflows in the modules of targets that name a single workflow, whose steps may start runs of the others.

    Instances that are variables of the module come first.
    """
    found: dict[int, Registrable] = {}
    for text in texts:
        target = parse_target(text)
        if target.name is None:
            continue
        module = _import(target)
        found |= {id(each): each for each in vars(module).values() if isinstance(each, Workflow)}
        found |= {id(each): each for each in _classes_of(module) if steps_of(each)}
    return list(found.values())


def load_workflow(text: str) -> Workflow:
    """Load a target that is exactly one workflow, and build it.

    Raises:
        TargetError: As for `load_target`, or the target has several workflows.
        WorkflowValidationError: It cannot be built; the message says how to register it.
    """
    found = load_target(text)
    if len(found) > 1:
        names = ", ".join(sorted(_label(each) for each in found))
        raise TargetError(f"{text!r} has {len(found)} workflows: {names}. Choose one, as {text}:Workflow.")
    return build(found[0])


def build(workflow: Registrable) -> Workflow:
    """The instance that a worker would use.

    Raises:
        WorkflowValidationError: It cannot be built; the message says how to register it.
    """
    built = Registry().add(workflow).workflow
    assert isinstance(built, Workflow)  # a plain WorkflowDefinition is never registered by users
    return built


def parse_target(text: str) -> Target:
    """Parse a target without importing anything.

    Raises:
        TargetError: It has none of the known forms, or the file does not exist.
    """
    place, _, name = text.partition(":")
    if not place:
        raise TargetError(f"{text!r} is not a target. {_FORMS}")
    if place.endswith(".py") or "/" in place or os.sep in place:
        return _file_target(text, Path(place).expanduser().absolute(), name or None)
    if not all(part.isidentifier() for part in place.split(".")):
        raise TargetError(f"{text!r} is not a target: {place!r} is neither a module name nor a .py file. {_FORMS}")
    return Target(text, None, place, Path.cwd(), name or None)


def _file_target(text: str, file: Path, name: str | None) -> Target:
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise TargetError(f"{text!r} cannot be loaded: {file} {what}. {_FORMS}")
    if file.suffix != ".py":
        raise TargetError(f"{text!r} cannot be loaded: {file} is not a .py file. {_FORMS}")
    parts = [] if file.stem == "__init__" else [file.stem]
    root = file.parent
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        parts.insert(0, root.name)
        root = root.parent
    if any("." in part for part in parts):
        raise TargetError(f"{text!r} cannot be loaded: Python cannot import a file with a dot in its name. Rename it.")
    return Target(text, file, ".".join(parts), root, name)


def _install(_context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if given:
        install()


def llama_index_option(command: F) -> F:
    """Add `--llama-index`, which takes effect before any user code is imported."""
    option: Any = click.option(
        "--llama-index",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_install,
        help="Run programs written for LlamaIndex: umbel stands in for the module workflows.",
    )
    made: F = option(command)
    return made


# -- importing ---------------------------------------------------------------------------------------------------------


def _import(target: Target) -> ModuleType:
    if str(target.root) not in sys.path:
        sys.path.insert(0, str(target.root))
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{target.module}.".startswith(f"{error.name}."):
            raise TargetError(
                f"{target.text!r} cannot be loaded: no module {error.name!r} on sys.path, which begins with "
                f"{sys.path[0] or os.getcwd()}. Run the command in the module's parent folder, or give a file."
            ) from error
        _import_failed(target, error)
    except (Exception, SystemExit) as error:
        _import_failed(target, error)
    file = getattr(module, "__file__", None)
    if target.file is not None and (file is None or not target.file.samefile(file)):
        raise TargetError(
            f"{target.text!r} cannot be loaded: another module is already named {target.module!r}, "
            f"{file or 'a built-in one'}. Rename the file."
        )
    return module


def _import_failed(target: Target, error: BaseException) -> NoReturn:
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
    else:
        *_, (frame, line) = [at for at in traceback.walk_tb(error.__traceback__) if _is_of_the_user(at[0])]
        place = f"{frame.f_code.co_filename}, line {line}"
    last_line = traceback.format_exception_only(error)[-1].strip()
    hint = ""
    if isinstance(error, SystemExit):
        hint = ' The module exits while it is imported; move that under `if __name__ == "__main__":`.'
    raise TargetError(f"{target.text!r} cannot be loaded: {place}: {last_line}{hint}") from error


def _is_of_the_user(frame: FrameType) -> bool:
    """Whether a frame is this module's import call, or belongs neither to Python's import machinery nor to umbel."""
    module = str(frame.f_globals.get("__name__"))
    return module == __name__ or not module.startswith(("importlib.", "umbel."))


# -- finding -----------------------------------------------------------------------------------------------------------


def _preferred(chosen: Registrable) -> Registrable:
    """The latest instance registered for a class; else the class."""
    instances = (_built(each) for each in reversed(declared))
    return next((each for each in instances if type(each) is chosen), chosen)


def _built(registered: Registrable) -> Registrable:
    """A factory's instance; classes are returned as they are, so that their mistakes can be reported one by one."""
    return registered if isinstance(registered, type) else build(registered)


def _named(target: Target, module: ModuleType, name: str) -> Registrable:
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Workflow):
        return found
    if isinstance(found, type) and issubclass(found, Workflow):
        return found
    if callable(found) and not isinstance(found, type):
        factory: Callable[[], Workflow] = found
        return factory
    what = f"it has no {name!r}" if found is None else f"that is {_article(type(found).__name__)}"
    raise TargetError(f"{target.text!r} cannot be loaded: {what}. {_contents(module)}")


def _all_in(target: Target, module: ModuleType, registered: list[Registrable]) -> list[Registrable]:
    given = [_built(each) for each in reversed(registered)]
    held = [each for each in vars(module).values() if isinstance(each, Workflow)]
    instances: dict[str, Workflow] = {}
    for each in (*given, *held):
        if isinstance(each, Workflow):
            instances.setdefault(each.workflow_name, each)
    replaced = {type(each) for each in instances.values()}
    named = [each for each in given if isinstance(each, type)]
    classes = [cls for cls in dict.fromkeys([*named, *_classes_of(module)]) if cls not in replaced and steps_of(cls)]
    found: list[Registrable] = [*instances.values(), *classes]
    if not found:
        raise TargetError(f"{target.text!r} has no workflows. {_contents(module)}")
    return found


def _classes_of(module: ModuleType) -> list[type[Workflow]]:
    """The workflow classes that the module itself defines, in order of definition."""
    own = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Workflow) and each.__module__ == module.__name__
    ]
    return list(dict.fromkeys(own))


def _contents(module: ModuleType) -> str:
    """The workflows of the module, for the message about a wrong name."""
    own = [cls.__qualname__ + ("" if steps_of(cls) else " (has no steps)") for cls in _classes_of(module)]
    instances = [name for name, each in vars(module).items() if isinstance(each, Workflow)]
    imported = [
        f"{name} (defined in {each.__module__})"
        for name, each in vars(module).items()
        if isinstance(each, type)
        and issubclass(each, Workflow)
        and each.__module__ != module.__name__
        and not each.__module__.startswith("umbel.")
    ]
    found = ", ".join([*own, *instances, *imported])
    if found:
        return f"Workflows in {module.__name__}: {found}."
    if any(map(_is_for_llama_index, vars(module).values())):
        return f"{module.__name__} is written for LlamaIndex: add --llama-index."
    return f"{module.__name__} has no subclass and no instance of umbel.Workflow."


def _is_for_llama_index(value: object) -> bool:
    """Whether it is LlamaIndex's own workflow or agent, not umbel's, because it was loaded without `install()`."""
    mro = (value if isinstance(value, type) else type(value)).__mro__
    return any(cls.__name__ == "Workflow" and cls.__module__.partition(".")[0] in _LLAMA_INDEX for cls in mro)


def _label(workflow: Registrable) -> str:
    cls = type(workflow) if isinstance(workflow, Workflow) else workflow
    return getattr(cls, "__qualname__", repr(cls))


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
