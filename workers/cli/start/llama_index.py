"""`--llama-index`, of the commands that load a user's modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ....tasks.llama_index.install import install

F = TypeVar("F", bound=Callable[..., object])


def _install(_context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if given:
        install()


def llama_index_option(command: F) -> F:
    """Add `--llama-index`, which takes effect before anything of the user's is imported."""
    option: Any = click.option(
        "--llama-index",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_install,
        help="Run programs written for LlamaIndex: umbel answers for the module workflows.",
    )
    made: F = option(command)
    return made
