"""No pickle is ever read, nothing is evaluated, and nothing that a payload names is imported.

Tested by reading the package, and by a real run under an audit hook. Content types that a worker accepts are tested
in `tests/transport/test_quarantine.py`; that event names import nothing also in `tests/events/test_codec_names.py`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import umbel
from umbel import Settings
from umbel.tasks.messages.dispatcher import publishing_app
from umbel.workers.celery_app.app import create_app

PACKAGE = Path(umbel.__file__).parent
FOLDERS = ("orchestration", "tasks", "workers", "server")
FILES = sorted([*PACKAGE.glob("*.py"), *(path for folder in FOLDERS for path in (PACKAGE / folder).rglob("*.py"))])

#: Modules that create objects or code from bytes.
DANGEROUS_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "jsonpickle", "marshal", "shelve", "code"}
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}

#: For a program's own snapshots; no other file of the package reads them (see below).
MAY_PICKLE = {"tasks/events/serializers.py"}
#: Names from the operator's own command line, and names in umbel's own code. `signatures.py` has a function of
#: LlamaIndex Workflows that imports what its caller names; umbel never calls it (see below).
MAY_IMPORT_BY_NAME = {
    "__init__.py",
    "tasks/llama_index/signatures.py",
    "tasks/llama_index/install.py",
    "workers/cli/__main__.py",
    "workers/cli/deployment/existing.py",
    "workers/cli/runs/show.py",
    "workers/cli/targets.py",
    "workers/cli/lazy_group.py",
    "workers/pool/loop.py",
    "workers/pool/__init__.py",
    "workers/transport/__init__.py",
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def code_of(path: Path) -> str:
    """Return the code of the file without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0] = ast.Pass()
    return ast.unparse(tree)


def found(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (kind, what) for every dangerous construct in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (("module", alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield "module", (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in DANGEROUS_CALLS:
                yield "call", called.id
            if isinstance(called, ast.Attribute) and called.attr in ("import_module", "find_spec", "__import__"):
                yield "import", called.attr


def test_the_scan_sees_what_it_looks_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import pickle, os.path\nfrom marshal import loads\nimport importlib\neval('1')\nimportlib.import_module('x')\n"
    )

    assert {("module", "pickle"), ("module", "marshal"), ("call", "eval"), ("import", "import_module")} <= set(
        found(bad)
    )
    assert len(FILES) > 150


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_neither_pickles_nor_evaluates_nor_imports_by_name(path: Path) -> None:
    seen = set(found(path))

    assert {what for kind, what in seen if kind == "module"} & DANGEROUS_MODULES <= (
        {"pickle"} if name_of(path) in MAY_PICKLE else set()
    )
    assert {what for kind, what in seen if kind == "call"} == set()
    imports = {what for kind, what in seen if kind == "import"} - {"find_spec"}
    assert imports == set() or name_of(path) in MAY_IMPORT_BY_NAME


def test_only_snapshots_of_a_programs_own_know_the_serializer_that_pickles() -> None:
    users = {name_of(path) for path in FILES if "PickleSerializer" in code_of(path)}

    assert {name for name in users if not name.startswith(("tasks/public/", "public_names"))} == {
        "tasks/events/serializers.py"
    }


def test_nothing_of_umbel_calls_the_function_that_imports_what_it_is_given() -> None:
    name = "import_module_from_qualified_name"
    users = {name_of(path) for path in FILES if name in code_of(path)}

    assert users == {"tasks/llama_index/names.py", "tasks/llama_index/signatures.py"}
    assert f"{name}(" not in code_of(PACKAGE / "tasks" / "llama_index" / "names.py")


@pytest.mark.parametrize("make", [create_app, publishing_app])
def test_apps_take_and_send_json_alone(make) -> None:  # type: ignore[no-untyped-def]
    conf = make(Settings(redis_url="redis://localhost:6379/0")).conf

    assert list(conf.accept_content) == ["json"]
    assert conf.task_serializer == "json"


PROGRAM = """
import sys

seen = []
watching = False


def hook(event, arguments):
    if watching and (event == "pickle.find_class" or (event == "import" and arguments[0].startswith("trap"))):
        seen.append((event, str(arguments[:2])))


sys.addaudithook(hook)

import umbel
from umbel import Context, Event, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.retry_policy import stop_after_attempt, wait_fixed


class Piece(Event):
    n: int


class Done(Event):
    n: int


class Flow(Workflow):
    @step
    async def split(self, ctx: Context, ev: StartEvent) -> list[Piece]:
        await ctx.store.set("kept", {"__class__": "trap_for_state.Evil", "n": 1})
        ctx.write_event_to_stream(Event(text="trap_for_stream.Evil"))
        return [Piece(n=n) for n in range(3)]

    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
    def work(self, ev: Piece, ctx: Context) -> Done:
        if ctx.attempt == 1:
            raise ValueError("trap_for_exceptions.Evil")
        return Done(n=ev.n)

    @step
    async def total(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sum(ev.n for ev in evs))


if __name__ == "__main__":
    with umbel.local(in_process=True):
        Flow().start().result()  # whatever libraries load and unpickle on their first use is no concern of ours
        watching = True
        assert Flow().start().result() == 3
        watching = False
    # Celery finds out whether an exception can be pickled by doing it, there and then, with what it has just raised.
    own = ("pickle.find_class", "('umbel.tasks.attempt.running', 'AttemptFailed')")
    print("seen:", [each for each in seen if each != own])
"""


def test_a_run_with_retries_joins_state_and_streams_unpickles_nothing(tmp_path: Path) -> None:
    program = tmp_path / "watched.py"
    program.write_text(PROGRAM)

    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=110)

    assert done.stdout == "seen: []\n", done
