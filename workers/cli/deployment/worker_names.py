"""The name of a worker: what `umbel worker --name` and `umbel ping` make of the text that they are given."""

from __future__ import annotations

import re
import socket

import click

_FORMAT = re.compile("%(.?)", re.DOTALL)


def expanded(name: str) -> str:
    """The name with what Celery's formats stand for: `%h` the host's name, `%n` its first part, `%d` the rest.

    Raises:
        click.UsageError: It has another format.
    """
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    formats = {"h": host, "n": short, "d": domain, "i": "0", "I": "", "%": "%"}

    def value_of(found: re.Match[str]) -> str:
        if found[1] not in formats:
            raise click.UsageError(
                f"The worker's name {name!r} has {found[0]!r}; it may have %h (the host), %n (its first part), %d (its "
                "domain) and %% (a percent sign)."
            )
        return formats[found[1]]

    return _FORMAT.sub(value_of, name)


def node_name(name: str) -> str:
    """The name under which a worker announces itself: NAME@HOST, with the name of this host if none is given.

    Raises:
        click.UsageError: The name cannot be used: monitors and log lines could not show it, or not tell where it ends.
    """
    given, at, host = expanded(name).partition("@")
    if not (given + host).isprintable():
        raise click.UsageError(f"The worker's name {name!r} has characters that cannot be printed. Leave them out.")
    if not given or (at and not host) or "@" in host:
        raise click.UsageError(
            f"The worker's name {name!r} stands for {given + at + host!r}, which is neither NAME nor NAME@HOST. Give "
            "one of these; without @HOST, the name of this host is added."
        )
    return f"{given}@{host or socket.gethostname()}"
