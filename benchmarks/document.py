"""The circumstances of a measurement, and the section of docs/performance.md with its figures."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
#: `--write` replaces the text between these lines of the document.
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PACKAGES = ("celery", "kombu", "dramatiq", "taskiq", "taskiq-redis", "llama-index-workflows", "dbos", "uvloop", "umbel")


def circumstances(repeat: int, redis_version: str) -> str:
    """One paragraph about machine, versions and date."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return (
        f"Measured on {datetime.datetime.now(datetime.UTC):%d %B %Y} on {os.cpu_count()} processors ({_processor()}), "
        f"Python {platform.python_version()}, Redis {redis_version} with append-only file (everysec unless said "
        f"otherwise), {packages}. {repeat} repetitions, contenders in turn; "
        f"the machine's load at the end was {os.getloadavg()[0]:.1f}."
    )


def write_section(path: Path, text: str) -> None:
    """Put `text` between the two marks of a file, which are appended if it does not have them."""
    before = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n"
    head, begin, rest = before.partition(BEGIN)
    tail = rest.partition(END)[2] if begin else "\n"
    if not begin:
        head = head.rstrip("\n") + "\n\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
