"""`umbel completion`: what a shell needs to complete umbel's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: eval "$(umbel completion bash)"    in ~/.bashrc
    zsh:  eval "$(umbel completion zsh)"     in ~/.zshrc
    fish: umbel completion fish > ~/.config/fish/completions/umbel.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "umbel", "_UMBEL_COMPLETE").source())
