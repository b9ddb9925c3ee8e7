"""What an examination finds: how grave, what it is, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["fine", "note", "warning", "danger"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        level: `danger` loses data or keeps everything from working; `warning` may hurt some day.
        about: What was looked at, in a word or two.
        text: What was found.
        mend: What to do about it; empty when nothing is to be done.
    """

    level: Level
    about: str
    text: str
    mend: str = ""
