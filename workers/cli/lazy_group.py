"""A group of commands that are imported when they are called: the one place where the command line imports lazily.

`umbel --help` and a mistyped command must answer at once, without Celery, Redis clients or the user's code. So the
group knows each command by name, place and summary, and imports the command's file only when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

_COMMANDS = f"{__package__}.commands"


class Lazy(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group whose commands are given as places."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **options: Any) -> None:
        """Args:
        *args: As for `click.Group`.
        lazy: The commands by name, in the order of the help text; modules are relative to `commands`.
        **options: As for `click.Group`.
        """
        super().__init__(*args, **options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None when there is no such command."""
        place = self._lazy.get(cmd_name)
        if place is None:
            return None
        command = getattr(importlib.import_module(place.module, _COMMANDS), place.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in self._lazy.items()])
