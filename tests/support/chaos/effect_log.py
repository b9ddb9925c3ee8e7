"""What chaos steps did, kept where no fault of Redis reaches: a log that is only appended to, and a bank.

The log is that of `everyday` flows: one `os.write` per line on an O_APPEND descriptor. The bank stands for any service
outside that accepts an idempotency key: it does once what it is asked twice, and counts what it was asked again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.flows.everyday import FOLDER, effect
from umbel import Context


def began(ctx: Context, what: str, **more: Any) -> None:
    """Note that a step's code has begun: run, work item, attempt, token, process."""
    work = ctx._face.work  # type: ignore[union-attr]  # nothing public tells the token, and users need not know it
    effect(what, ctx, work=work.work_id, token=work.token, **more)


def deposit(ctx: Context) -> None:
    """Have the bank book once for this step execution, however often it is executed."""
    book(Path(os.environ[FOLDER]), ctx.idempotency_key)


def book(folder: Path, key: str) -> bool:
    """Book under a key; False when that was done before. The file is the booking, so no crash comes in between."""
    bank = folder / "bank"
    with suppress(FileExistsError):
        bank.mkdir()
    try:
        os.close(os.open(bank / key.replace("/", "+"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def bookings(folder: Path, run_id: str | None = None) -> list[str]:
    """The keys under which the bank has booked."""
    with suppress(FileNotFoundError):
        keys = [name.replace("+", "/") for name in os.listdir(folder / "bank")]
        return [key for key in keys if run_id is None or key.startswith(f"{run_id}/")]
    return []
