"""What the pages show works as shown: programs run, commands and their options exist, links have targets."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import click
import pytest

from support.docs.pages import PAGES, ROOT, Block, blocks, code, page, spans
from support.docs.served import UMBEL, Served
from support.eventually import eventually
from umbel.orchestration.connection.settings import Settings
from umbel.workers.cli.main import cli
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

PROGRAMS = [block for name in PAGES for block in blocks(name) if block.is_program]
EVERY_PROGRAM = pytest.mark.parametrize("block", PROGRAMS, ids=str)
EVERY_PAGE = pytest.mark.parametrize("name", PAGES)
#: Programs of pages whose readers also run them on workers.
SERVED = [block for block in PROGRAMS if block.page in ("README.md", "docs/tutorial.md")]

#: The output of a program, once it has ended.
Printed = Future[str]

#: The time limit of a command.
SECONDS = 110


def umbel(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an umbel command to a successful end."""
    return _run(UMBEL, folder, *arguments, **variables)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python to a successful end."""
    return _run(sys.executable, folder, *arguments)


def _run(command: str, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [command, *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done


# -- programs ----------------------------------------------------------------------------------------------------------


def test_the_pages_have_programs() -> None:
    assert len([block for block in PROGRAMS if block.page == "docs/tutorial.md"]) >= 6
    assert all(block.output for block in PROGRAMS), "no block says what it prints"


@pytest.fixture(scope="module")
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Printed]]:
    """The output of each program. Four run at a time: they mostly wait."""

    def execute(block: Block, folder: Path) -> str:
        (folder / "flow.py").write_text(block.text)
        done = python(folder, "flow.py") if block.is_self_contained else umbel(folder, "exec", "flow.py")
        return done.stdout

    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    name = test_a_program_prints_what_the_page_says.__name__
    chosen: list[Block] = [test.callspec.params["block"] for test in tests if test.originalname == name]
    executing = ThreadPoolExecutor(4)
    try:
        yield {str(block): executing.submit(execute, block, tmp_path_factory.mktemp("program")) for block in chosen}
    finally:
        executing.shutdown(cancel_futures=True)


@EVERY_PROGRAM
def test_a_program_prints_what_the_page_says(block: Block, printed: dict[str, Printed]) -> None:
    assert printed[str(block)].result() == block.output


@pytest.mark.parametrize("block", SERVED, ids=str)
def test_a_program_can_be_given_to_a_worker_without_being_run(block: Block, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(block.text)

    done = umbel(tmp_path, "check", "flow.py")

    assert block.output is not None
    assert block.output not in done.stdout


@pytest.mark.parametrize(
    "block", [block for name in PAGES for block in blocks(name) if block.language in ("python", "py")], ids=str
)
def test_an_extract_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """Ends everything the tests below start, even when they are killed."""
    with Supervisor() as made:
        yield made


@pytest.fixture(scope="module")
def redis_url(supervisor: Supervisor) -> Iterator[str]:
    """A Redis for the workers that the pages start."""
    with EmbeddedRedis.temporary(supervisor=supervisor) as server:
        yield server.url


@pytest.mark.parametrize(
    ("name", "file", "number", "end"),
    [("README.md", "first.py", 0, "11"), ("docs/tutorial.md", "flow.py", -1, "Buy tea?")],
)
def test_a_program_is_served_by_the_commands_that_the_page_shows(
    name: str, file: str, number: int, end: str, redis_url: str, supervisor: Supervisor, tmp_path: Path
) -> None:
    program = [block for block in PROGRAMS if block.page == name][number]
    [shown] = [block for block in blocks(name) if block.language == "sh" and f"worker {file}" in block.text]
    (tmp_path / file).write_text(program.text)
    deployed = {"UMBEL_REDIS_URL": redis_url, "UMBEL_KEY_PREFIX": Path(file).stem}
    printed: dict[str, str] = {}

    with ExitStack() as workers:
        for line_number, line in enumerate(shown.text.splitlines()):
            first, command, *arguments = shlex.split(line.rstrip(" &"), comments=True)
            if first == "export" or command == "exec":
                continue  # the tests use their own Redis instead; every program is executed above
            if command == "worker":
                typed = [UMBEL, command, *arguments]
                worker = workers.enter_context(Served(supervisor, tmp_path, f"worker-{line_number}", typed, deployed))
                worker.says(" ready.")
            else:
                settings = {"UMBEL_STATE_DIR": str(tmp_path)} if command == "run" else deployed  # `run`: embedded
                printed[command] = umbel(tmp_path, command, *arguments, **settings).stdout

        run_id = printed["start"].strip()
        eventually(lambda: end in umbel(tmp_path, "events", run_id, **deployed).stdout, f"the run says {end!r}")
    assert printed.get("run", end).strip() == end
    assert run_id in printed.get("runs", run_id)


def _of_subcommand(context: click.Context, command: click.Command, words: list[str]) -> list[click.Parameter]:
    """Return the parameters of the command that follows the arguments of a group."""
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    if not isinstance(command, click.Group) or len(words) <= len(arguments):
        return []
    following = command.get_command(context, words[len(arguments)])
    assert following is not None, f"there is no command {words[len(arguments)]!r} behind {command.name!r}"
    return following.params


@EVERY_PAGE
def test_a_command_that_a_page_names_exists_with_its_options(name: str) -> None:
    context = click.Context(cli)
    for text in set(code(name)) - set(messages()):
        for command_name, rest in re.findall(r"\bumbel ([a-z]+)((?: [^|;&]*)?)", text):
            command = cli.get_command(context, command_name)
            assert command is not None, f"{text!r}: there is no such command"
            parameters = [*command.params, *_of_subcommand(context, command, rest.split())]
            known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
            for option in re.findall(r"(?<!\S)--?[a-zA-Z][a-z-]*", rest):
                assert option in known, f"{text!r}: `umbel {command_name}` has no option {option}"


@EVERY_PAGE
def test_a_target_of_make_that_a_page_names_exists(name: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for text in code(name):
        for target in re.findall(r"\bmake ([a-z-]+)", text):
            assert target in targets, text


# -- names and texts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources() -> str:
    """Return the sources, with each text of umbel on one line."""
    files = [path for folder in ("orchestration", "tasks", "workers") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text() for path in files)
    return re.sub(r'"\s*f?"', "", text)  # joins texts that span several lines


def messages() -> list[str]:
    """Return the texts of umbel that the troubleshooting page quotes, in headings and in its prose."""
    headings = re.findall(r"^## (.*)$", page("docs/troubleshooting.md"), re.MULTILINE)
    quoted = [text for heading in headings for text in re.findall(r"`([^`]* [^`]*)`", heading)]
    return quoted + [text for text in spans("docs/troubleshooting.md") if text.startswith("This ")]


def test_texts_that_troubleshooting_quotes_are_texts_of_umbel(sources: str) -> None:
    assert len(messages()) >= 3
    for text in messages():
        assert text.strip("… ") in sources, text


@EVERY_PAGE
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], target


def test_the_index_has_every_page() -> None:
    index = set(re.findall(r"\]\(([^)\s]+)\)", page("docs/README.md")))
    there = {os.path.relpath(name, "docs") for name in PAGES if not name.startswith("docs/decisions/")}

    assert there - {"README.md"} <= index


@EVERY_PAGE
def test_a_file_that_a_page_names_exists_and_has_what_it_is_said_to_have(name: str) -> None:
    for line in page(name).splitlines():
        named = re.findall(r"`((?:\w+/)*[\w-]+\.(?:py|lua|yml))`(?: `(\w+)`)?", line)
        for file, function in named:
            if "/" not in file and not (ROOT / file).exists():
                continue  # a file of the reader
            assert (ROOT / file).exists(), f"{name}: {file}"
            assert not function or re.search(rf"\b(def|class) {function}\b", (ROOT / file).read_text()), line


@EVERY_PAGE
def test_a_variable_that_a_page_names_is_read(name: str, sources: str) -> None:
    fields = {f"UMBEL_{field.upper()}" for field in Settings.model_fields}
    for variable in re.findall(r"\bUMBEL_[A-Z_]*[A-Z]\b", page(name)):
        assert variable in fields or f'"{variable}"' in sources, variable


@EVERY_PAGE
def test_a_name_of_umbel_that_a_page_names_exists(name: str) -> None:
    for text in spans(name):
        for dotted in re.findall(r"(?<!/)\bumbel((?:\.[A-Za-z_]+)+)", text):
            *modules, attribute = dotted.strip(".").split(".")
            module = importlib.import_module(".".join(["umbel", *modules]))
            found = hasattr(module, attribute) or importlib.util.find_spec(f"{module.__name__}.{attribute}")
            assert found, text
