"""The command line as users run it: a separate process, in a folder with a file of workflows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from support.eventually import eventually
from support.processes.prepared import run_prepared

FLOWS = '''
import asyncio
import os

from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Numbers(StartEvent):
    count: int


class Item(Event):
    number: int


class Squared(Event):
    number: int


class Report(StopEvent):
    total: int


class Squares(Workflow):
    """Fans out and gathers."""

    @step
    async def split(self, ev: Numbers) -> list[Item]:
        return [Item(number=number) for number in range(ev.count)]

    @step
    async def square(self, ev: Item, ctx: Context) -> Squared:
        ctx.write_event_to_stream(Squared(number=ev.number))
        return Squared(number=ev.number**2)

    @step
    async def total(self, evs: list[Squared]) -> StopEvent:
        return StopEvent(result={"total": sum(ev.number for ev in evs)})


class Typed(Workflow):
    @step
    async def report(self, ev: StartEvent) -> Report:
        return Report(total=42)


class Prepared(Event):
    pass


class CardDeclined(Exception):
    pass


class Order(Workflow):
    """Its second step fails while a file is missing."""

    @step
    async def prepare(self, ev: StartEvent) -> Prepared:
        with open(ev.folder + "/prepared", "a") as file:
            file.write("x")
        return Prepared(folder=ev.folder)

    @step
    async def charge(self, ev: Prepared) -> StopEvent:
        if not os.path.exists(ev.folder + "/money"):
            raise CardDeclined("limit reached")
        return StopEvent(result="charged")


class Approved(HumanResponseEvent):
    by: str


class Ask(Workflow):
    @step
    async def ask(self, ev: StartEvent, ctx: Context) -> StopEvent:
        answer = await ctx.wait_for_event(Approved)
        return StopEvent(result=f"approved by {answer.by}")


class Slow(Workflow):
    @step
    async def wait(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(600)
        return StopEvent()


class Unsound(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Item:
        return Item(number=1)

    @step
    async def second(self, ev: Squared) -> StopEvent:
        return StopEvent()


class Talk(Workflow):
    """Asks somebody outside."""

    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent()

    @step
    async def reply(self, ev: Approved) -> StopEvent:
        return StopEvent()


if __name__ == "__main__":
    raise RuntimeError("a worker or client has executed the main part")
'''

#: Short periods, so that losses, timers and silence are noticed within moments.
QUICK = {"UMBEL_SWEEP_SECONDS": "0.2", "UMBEL_LEASE_SECONDS": "3", "UMBEL_HEARTBEAT_SECONDS": "0.5"}


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with no umbel setting except these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UMBEL_")}
    return kept | QUICK | variables


class Finished:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Cli:
    """Runs `umbel` with one environment in one folder."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.environment = environment(**variables)

    def __call__(self, *arguments: str, stdin: str = "", fails: bool = False) -> Finished:
        """Run a command to its end; `fails` says whether it must fail."""
        with TemporaryFile() as typed, TemporaryFile() as out, TemporaryFile() as err:
            typed.write(stdin.encode())
            typed.seek(0)
            code = self._run(list(arguments), [typed, out, err])
            for stream in (out, err):
                stream.seek(0)
            finished = Finished(code, out.read().decode(), err.read().decode())
        assert (code != 0) == fails, finished
        return finished

    def error(self, *arguments: str) -> str:
        """Run a command that must end with exactly one line of error; returns that line."""
        finished = self(*arguments, fails=True)
        assert finished.code == 1, finished
        assert finished.out == "", finished
        assert finished.err.startswith("Error: "), finished
        assert finished.err.count("\n") == 1, finished
        return finished.err

    def _run(self, arguments: list[str], streams: list[IO[bytes]]) -> int:
        changed = self.environment.items() ^ environment().items()
        if any(name.startswith("PYTHON") for name, _ in changed):  # variables that Python reads at startup
            typed, out, err = streams
            command = self.command(*arguments)
            return subprocess.run(
                command, cwd=self.folder, env=self.environment, stdin=typed, stdout=out, stderr=err, timeout=60
            ).returncode
        return run_prepared(arguments, self.folder, self.environment, streams, timeout=60)

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "umbel.workers.cli", *arguments]

    @contextmanager
    def background(self, *arguments: str) -> Iterator[Background]:
        """Run a command in the background; it is interrupted at the end if it still runs."""
        started = Background(self, arguments)
        try:
            yield started
        finally:
            if started.process.poll() is None:
                started.interrupt()
                started.wait()


class Background:
    """A command in the background, whose output is read as it arrives."""

    def __init__(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            cli.command(*arguments),
            cwd=cli.folder,
            env=cli.environment | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out, self.err = "", ""
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("out", "err")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        pipe = self.process.stdout if name == "out" else self.process.stderr
        assert pipe is not None
        with pipe:
            for line in pipe:
                setattr(self, name, getattr(self, name) + line)

    def says(self, text: str) -> None:
        """Wait until it has printed this text."""

        def said() -> bool:
            assert self.process.poll() is None or text in self.out + self.err, self.wait()
            return text in self.out + self.err

        eventually(said, f"it says {text!r}")

    def interrupt(self) -> None:
        """Send Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> Finished:
        """Wait until it ends."""
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(10)
        return Finished(code, self.out, self.err)
