"""Checks of the names that users give: text that Redis, JSON and scripts can carry."""

from __future__ import annotations

from typing import TypeGuard


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is text that UTF-8 can carry: a string without half a surrogate pair."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)


def is_name(value: object) -> bool:
    """Whether it is such a text, or a hashable value that has one, such as a number or a UUID."""
    try:
        hash(value)
    except TypeError:
        return False
    return is_text(value if isinstance(value, str) else str(value))
