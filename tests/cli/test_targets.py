"""How a TARGET becomes workflows: real modules on disk, imported into this process and removed afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from umbel.orchestration.model.errors import WorkflowValidationError
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.workflow.registry import declared
from umbel.workers.cli.targets import TargetError, build, load_target, load_targets, load_workflow, parse_target

HEAD = """
from umbel import StartEvent, StopEvent, Workflow, register, step

"""

ORDER = (
    HEAD
    + """
class Order(Workflow):
    @step
    async def ship(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="shipped")
"""
)

NEEDY = (
    HEAD
    + """
class Needy(Workflow):
    def __init__(self, llm):
        super().__init__()
        self.llm = llm

    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=self.llm)
"""
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to write modules into, as the current directory; imports are undone afterwards."""
    modules, known = set(sys.modules), len(declared)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    del declared[known:]
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(*targets: str) -> list[str]:
    return [build(each).workflow_name for each in load_targets(targets)]


def test_a_module_and_a_file_give_the_workflow_the_same_name(folder: Path) -> None:
    write(folder, "flows.py", ORDER)

    assert names("flows") == names("flows:Order") == names("flows.py") == names("flows.py:Order") == ["flows.Order"]


def test_a_file_is_found_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, "deep/flows.py", ORDER)
    monkeypatch.chdir("/")

    assert names(f"{path}:Order") == ["flows.Order"]


def test_a_file_inside_a_package_gets_the_packages_name(folder: Path) -> None:
    write(folder, "shop/__init__.py", "")
    write(folder, "shop/sales/__init__.py", "")
    write(folder, "shop/sales/flows.py", "from .prices import VAT\n" + ORDER)
    write(folder, "shop/sales/prices.py", "VAT = 19")

    assert names("shop/sales/flows.py") == names("shop.sales.flows") == ["shop.sales.flows.Order"]


def test_the_main_part_of_a_script_does_not_run(folder: Path) -> None:
    write(folder, "demo.py", ORDER + '\nif __name__ == "__main__":\n    raise RuntimeError("it ran")\n')

    assert names("demo.py") == ["demo.Order"]


def test_only_the_workflows_that_a_module_defines_are_taken_but_any_may_be_named(folder: Path) -> None:
    write(folder, "flows.py", ORDER)
    write(folder, "more.py", "from flows import Order\n" + ORDER.replace("class Order", "class Refund"))

    assert names("more") == ["more.Refund"]
    assert names("more:Order") == ["flows.Order"]


def test_a_base_class_without_steps_is_passed_over(folder: Path) -> None:
    write(folder, "flows.py", HEAD + "class Base(Workflow):\n    pass\n" + ORDER.replace("(Workflow)", "(Base)"))

    assert names("flows") == ["flows.Order"]


def test_an_instance_of_the_module_stands_for_its_class(folder: Path) -> None:
    write(folder, "flows.py", ORDER + "\norder = Order(timeout=7)\n")

    found = load_target("flows")

    assert [type(each) for each in found] == [type(load_workflow("flows:order"))]
    assert isinstance(found[0], Workflow)
    assert found[0]._timeout == 7


@pytest.mark.parametrize("registered", ["Needy('gpt')", "lambda: Needy('gpt')"])
@pytest.mark.parametrize("target", ["flows", "flows:Needy"])
def test_what_is_registered_while_loading_stands_for_its_class(folder: Path, target: str, registered: str) -> None:
    write(folder, "flows.py", NEEDY + f"\nregister({registered})\n")

    assert load_workflow(target).llm == "gpt"  # type: ignore[attr-defined]
    assert load_workflow(target).llm == "gpt"  # type: ignore[attr-defined]  # also once it is loaded


def test_registering_in_another_module_counts_when_that_one_is_loaded(folder: Path) -> None:
    write(folder, "flows.py", NEEDY)
    write(folder, "setup_worker.py", "import umbel, flows\numbel.register(flows.Needy('gpt'))\n")

    assert load_workflow("setup_worker").llm == "gpt"  # type: ignore[attr-defined]


def test_a_class_that_needs_arguments_is_an_error_that_says_how_to_register_it(folder: Path) -> None:
    write(folder, "flows.py", NEEDY)

    with pytest.raises(WorkflowValidationError, match=r"Needy cannot be built.*'llm'.*umbel\.register\(Needy\(…\)\)"):
        load_workflow("flows")


def test_several_workflows_are_named_where_one_is_wanted(folder: Path) -> None:
    write(folder, "flows.py", ORDER + ORDER.replace("Order", "Refund"))

    assert names("flows") == ["flows.Order", "flows.Refund"]
    with pytest.raises(TargetError, match=r"'flows' has 2 workflows: Order, Refund\. Choose .* as flows:Workflow"):
        load_workflow("flows")


def test_the_same_workflow_named_twice_comes_once(folder: Path) -> None:
    write(folder, "flows.py", ORDER)

    assert names("flows", "flows.py:Order") == ["flows.Order"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("missing.py", r"'missing.py' cannot be loaded: .*/missing\.py does not exist"),
        ("missing/flows.py:Order", "does not exist"),
        ("./flows", "does not exist"),
        ("missing", "no module 'missing'"),
        ("shop.missing:Order", "no module 'shop.missing'"),
        ("flows:Nothing", r"has no 'Nothing'\. Workflows in flows: Order"),
        ("flows:VALUE", r"that is an int\. Workflows in flows: Order"),
        ("empty", r"'empty' has no workflows\. empty has no subclass and no instance of umbel\.Workflow"),
        ("front", r"no workflows\. Workflows in front: Order \(defined in flows\)"),
        ("base", r"Workflows in base: Base \(has no steps\)"),
        (":Order", "is not a target"),
        ("two words", "neither a module name nor a .py file"),
        ("shop/", "is a folder"),
        ("json.py", r"another module is already named 'json', .*Rename the file"),
        ("dotted.name.py", "dot in its name"),
    ],
)
def test_a_target_that_names_no_workflow_says_what_there_is(folder: Path, target: str, text: str) -> None:
    write(folder, "flows.py", "VALUE = 1\n" + ORDER)
    write(folder, "empty.py", "")
    write(folder, "front.py", "from flows import Order")
    write(folder, "base.py", HEAD + "class Base(Workflow):\n    pass\n")
    write(folder, "shop/__init__.py", "")
    write(folder, "json.py", ORDER)
    write(folder, "dotted.name.py", ORDER)

    with pytest.raises(TargetError, match=text):
        load_target(target)


@pytest.mark.parametrize(
    ("text", "last_line"),
    [
        ("import nothing_of_that_name", r"broken\.py, line 1: ModuleNotFoundError: No module named 'nothing_of_that"),
        ("\n1 / 0", r"broken\.py, line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", r"broken\.py, line 1: SyntaxError: "),
        ("import sys\nsys.exit(3)", r"line 2: SystemExit: 3 The module exits while it is imported.*__main__"),
        (HEAD + "@step\nasync def f(ev) -> StopEvent: ...", r"broken\.py, line 4: \S*WorkflowValidationError: "),
    ],
)
@pytest.mark.parametrize("target", ["broken", "broken.py"])
def test_a_failing_import_is_reported_with_its_location_and_last_line(
    folder: Path, target: str, text: str, last_line: str
) -> None:
    write(folder, "broken.py", text)

    with pytest.raises(TargetError, match=last_line) as caught:
        load_target(target)

    assert caught.value.__cause__ is not None


def test_taking_a_target_apart_imports_nothing(folder: Path) -> None:
    write(folder, "flows.py", "raise RuntimeError")

    assert parse_target("a.b:C").module == "a.b"
    assert parse_target("flows.py:C").name == "C"
    assert parse_target("flows.py").name is None
