"""Tables that repeat the code: each is compared with the code, so neither can change alone."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from support.docs.pages import ROOT, page, spans, table
from umbel.orchestration.connection.keys import OTHER_KEYS, RUN_KEYS, SHARD_KEYS
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.inspection.metrics import COUNTERS, Metrics
from umbel.orchestration.model.log_actions import ACTIONS
from umbel.orchestration.store.scripts import load, names
from umbel.server.operations.prometheus import exposition
from umbel.workers.celery_app.app import APP_SETTINGS, create_app
from umbel.workers.cli.main import COMMANDS

PRODUCTION = "docs/running-in-production.md"
FOLDERS = ("orchestration", "server", "tasks", "workers")
SETTINGS = ("variable", "default", "meaning")
CELERY_SETTINGS = ("setting", "value", "why")
ACTION_TABLE = ("action", "when")
LOGGER_CALLS = {
    *(
        f"{logger}.{level}"
        for logger in ("logger", "_log")
        for level in ("debug", "info", "warning", "error", "exception")
    ),
    "log",
}
#: Stands for None.
NO_DEFAULT = "\N{EN DASH}"


def coded(cell: str) -> list[str]:
    """Return the code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def source() -> str:
    """Return all Python source of the package."""
    return "\n".join(path.read_text() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))


# -- settings ----------------------------------------------------------------------------------------------------------


def test_every_setting_is_in_the_table_in_the_order_of_the_code() -> None:
    documented = [variable for cell in table(PRODUCTION, *SETTINGS) for variable in coded(cell)]

    assert documented == [f"UMBEL_{name.upper()}" for name in Settings.model_fields]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_table_gives_the_default_of(name: str) -> None:
    default, meaning = table(PRODUCTION, *SETTINGS)[f"`UMBEL_{name.upper()}`"]

    assert default == (NO_DEFAULT if (value := Settings.model_fields[name].default) is None else f"`{value}`")
    assert meaning


def test_the_defaults_of_the_table_are_settings_that_umbel_accepts() -> None:
    rows = table(PRODUCTION, *SETTINGS).items()
    environment = {variable.strip("`"): default.strip("`") for variable, (default, _) in rows if default != NO_DEFAULT}

    assert Settings.from_environment(environment) == Settings()


def test_variables_that_are_no_settings_are_documented_too() -> None:
    [others] = re.findall(r"_NOT_SETTINGS = frozenset\(\s*{([^}]+)}", source())

    assert set(re.findall(r'"(\w+)"', others)) <= set(spans(PRODUCTION))


# -- Celery ------------------------------------------------------------------------------------------------------------


def documented_celery_settings() -> dict[str, str]:
    """Return Celery setting -> its value in the table; one value may apply to all names of its row."""
    found = {}
    for cell, (values, reason) in table(PRODUCTION, *CELERY_SETTINGS).items():
        assert reason, cell
        each = values.split(", ")
        for number, name in enumerate(coded(cell)):
            found[name] = each[number] if len(each) > 1 else each[0]
    return found


def shown(value: Any) -> str:
    """Return a value as the table writes it."""
    return str(value[0] if isinstance(value, list) else value)


@pytest.fixture(scope="module")
def app() -> Celery:
    return create_app(Settings(redis_url="redis://localhost:6379/0", drain_seconds=7))


def test_the_table_has_exactly_what_create_app_sets(app: Celery) -> None:
    assert documented_celery_settings() == {name: shown(value) for name, value in APP_SETTINGS.items()}


def test_an_app_has_the_settings_of_the_table(app: Celery) -> None:
    for name, value in documented_celery_settings().items():
        assert shown(app.conf[name]) == value, name
    assert app.conf.worker_soft_shutdown_timeout == 7


# -- log actions -------------------------------------------------------------------------------------------------------


def test_the_table_of_log_actions_is_that_of_the_code() -> None:
    documented = {coded(cell)[0]: when for cell, (when,) in table(PRODUCTION, *ACTION_TABLE).items()}

    assert documented == dict(ACTIONS)
    assert list(documented) == sorted(documented)


def test_every_action_of_the_list_is_logged_and_no_other() -> None:
    assert sorted(set(re.findall(r'"action": "(\w+)"', source()))) == sorted(ACTIONS)


def test_no_log_action_is_put_together() -> None:
    """Otherwise the previous test would miss it."""
    assert source().count('"action":') == len(re.findall(r'"action": "\w+"', source()))


def test_every_record_of_our_own_loggers_has_an_action() -> None:
    without = []
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        text = path.read_text()
        if "logging.getLogger(" not in text:
            continue  # it borrows Celery's logger, and logs what Celery logs
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func) in LOGGER_CALLS
                and not any(each.arg == "extra" for each in node.keywords)
            ):
                without.append(f"{path.name}:{node.lineno}")
    assert without == []


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*RUN_KEYS, *SHARD_KEYS])
def test_a_key_of_the_table_is_used(key: str) -> None:
    """That scripts use no other keys is tested with the scripts."""
    in_scripts = {name for verb in names() for name in load(verb).keys}

    assert key in in_scripts or re.search(rf'keys?\S*, ?"{key}"\)|\["{key}"\]', source()), key


@pytest.mark.parametrize("key", sorted(OTHER_KEYS))
def test_a_key_that_is_named_after_something_is_used(key: str) -> None:
    elsewhere = source().replace((ROOT / "orchestration" / "connection" / "keys.py").read_text(), "")

    for part in re.split("<[a-z_]+>", key):
        assert part in elsewhere


# -- command line ------------------------------------------------------------------------------------------------------


def test_every_command_is_in_a_page() -> None:
    pages = "\n".join(
        page(name)
        for name in (
            "README.md",
            PRODUCTION,
            "docs/guides/operations.md",
            "docs/tutorial.md",
            "docs/troubleshooting.md",
        )
    )

    assert [name for name in COMMANDS if f"umbel {name}" not in pages] == []


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_the_table_of_metrics_is_what_a_server_exports() -> None:
    nothing = Metrics(dict.fromkeys(COUNTERS, 0), {}, {}, {}, {}, 0, 0, 0.0)
    page = exposition(nothing, [], {}, 0).decode()
    expected_texts = {
        family.name + ("_total" if family.type == "counter" else ""): family.documentation
        for family in text_string_to_metric_families(page)
    }

    rows = table("docs/guides/operations.md", "metric", "labels", "meaning")

    assert {coded(cell)[0]: text for cell, (_, text) in rows.items()} == expected_texts
