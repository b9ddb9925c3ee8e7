"""Effects of chaos steps, kept where no Redis fault reaches: an append-only log and a bank.

The log is that of the `everyday` flows: one `os.write` per line on an O_APPEND descriptor. The bank stands for any
external service that accepts an idempotency key: it books once per key and detects repeated requests.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.flows.everyday import FOLDER, effect
from umbel import Context


def began(ctx: Context, what: str, **more: Any) -> None:
    """Record that a step's code has begun: run, work item, attempt, token, process."""
    work = ctx._face.work  # type: ignore[union-attr]  # nothing public tells the token, and users need not know it
    effect(what, ctx, work=work.work_id, token=work.token, **more)


def deposit(ctx: Context) -> None:
    """Book once at the bank for this work item, however often its step is executed."""
    book(Path(os.environ[FOLDER]), ctx.idempotency_key)


def book(folder: Path, key: str) -> bool:
    """Book under a key; False if it is already booked. Creating the file is the booking, so a crash cannot split it."""
    bank = folder / "bank"
    with suppress(FileExistsError):
        bank.mkdir()
    try:
        os.close(os.open(bank / key.replace("/", "+"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def bookings(folder: Path, run_id: str | None = None) -> list[str]:
    """Return the keys under which the bank has booked."""
    with suppress(FileNotFoundError):
        keys = [name.replace("+", "/") for name in os.listdir(folder / "bank")]
        return [key for key in keys if run_id is None or key.startswith(f"{run_id}/")]
    return []
