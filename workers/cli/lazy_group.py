"""A group of commands that are imported when they are called: the only lazy imports of the command line.

`umbel --help` and a mistyped command must answer at once, without importing Celery, Redis clients or the user's code.
So the group has the name, location and summary of each command, and imports its file only when it is called.
"""

from __future__ import annotations

import difflib
import gc
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class Lazy(NamedTuple):
    """Location of a command, and its summary in the list of commands."""

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows its commands by location."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], aliases: Mapping[str, str], **options: Any) -> None:
        """Args:
        *args: As for `click.Group`.
        lazy: The commands by name, in the order of the help text; modules are relative to this package.
        aliases: Further names of commands, which the help text does not list.
        **options: As for `click.Group`.
        """
        super().__init__(*args, **options)
        self._lazy = lazy
        self._aliases = aliases

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if it does not exist."""
        location = self._lazy.get(self._aliases.get(cmd_name, cmd_name))
        if location is None:
            return None
        was_enabled = gc.isenabled()
        gc.disable()  # imported objects stay; looking for garbage in them takes up to a tenth of a worker's start
        try:
            module = importlib.import_module(location.module, __package__)
        finally:
            if was_enabled:
                gc.enable()
        command = getattr(module, location.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for a mistyped one, suggest the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if near := difflib.get_close_matches(args[0], [*self._lazy, *self._aliases], 1):
                ctx.fail(f"{error.message.split(' (')[0].rstrip('.')}. Did you mean {near[0]!r}?")
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any, or an option."""
        names = [name for name in self._lazy if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self._lazy[name].summary) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.summary) for name, each in self._lazy.items()])
