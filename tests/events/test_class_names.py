"""Names of classes, and how a name is resolved."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

from umbel.tasks.events.codec import event_name
from umbel.tasks.events.event import Event
from umbel.tasks.values.class_names import loaded_class, module_path, qualified_name


def _main(spec_name: str | None, file: str | None) -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__spec__ = None if spec_name is None else importlib.util.spec_from_loader(spec_name, loader=None)
    if file is not None:
        main.__file__ = file
    return main


@pytest.mark.parametrize(
    ("spec_name", "file", "expected"),
    [
        ("shop.flows", "/srv/shop/flows.py", "shop.flows"),
        (None, "/srv/shop/flows.py", "flows"),
        (None, "flows.py", "flows"),
        (None, None, "__main__"),
    ],
)
def test_the_main_module_is_named_as_others_import_it(
    monkeypatch: pytest.MonkeyPatch, spec_name: str | None, file: str | None, expected: str
) -> None:
    main = _main(spec_name, file)
    monkeypatch.setitem(sys.modules, "__main__", main)

    for own_name in ("__main__", "__mp_main__"):
        local = type("Placed", (Event,), {"__module__": own_name, "__qualname__": "Placed"})
        assert event_name(local) == f"{expected}.Placed"
        main.Placed = local  # type: ignore[attr-defined]
        assert loaded_class(f"{expected}.Placed", Event) is local
    assert module_path("shop.other") == "shop.other"


def test_a_program_and_a_module_give_a_class_the_same_name(tmp_path: Path) -> None:
    program = tmp_path / "shop_flows.py"
    program.write_text(
        "from umbel.tasks.events.codec import event_name\n"
        "from umbel.tasks.events.event import Event\n"
        "class Placed(Event): ...\n"
        "print(event_name(Placed))\n"
    )

    said = [
        subprocess.run([sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for how in ([str(program)], ["-m", "shop_flows"], ["-c", "import shop_flows"])
    ]

    assert said == ["shop_flows.Placed\n"] * 3


class Outer:
    class Inner(ValueError):
        pass


def test_a_nested_class_is_found_by_its_path() -> None:
    assert qualified_name(Outer.Inner) == f"{__name__}.Outer.Inner"
    assert loaded_class(f"{__name__}.Outer.Inner", Exception) is Outer.Inner


def test_a_class_is_found_only_below_the_root_asked_for() -> None:
    assert loaded_class(f"{__name__}.Outer.Inner", OSError) is None
    assert loaded_class("builtins.ValueError", Exception) is ValueError
    assert loaded_class("builtins.KeyboardInterrupt", Exception) is None
    assert loaded_class("builtins.len", object) is None


def test_the_newer_of_two_classes_with_the_same_name_is_found() -> None:
    def make() -> type[Event]:
        class Twin(Event):
            pass

        return Twin

    _older, younger = make(), make()

    assert loaded_class(qualified_name(younger), Event) is younger


def test_a_script_whose_name_is_that_of_a_module_does_not_hide_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", _main(None, "/usr/bin/decimal"))

    assert loaded_class("decimal.InvalidOperation", Exception) is sys.modules["decimal"].InvalidOperation
