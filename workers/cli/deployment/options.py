"""The options that select a deployment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

_APP = "umbel.app"


def deployment_options(command: F) -> F:
    """Add `--redis` and `--state`, which arrive as `redis_url` and `state`."""
    state = click.option(
        "--state",
        metavar="NAME",
        help="State folder of the embedded Redis. Default: one for each project. Ignored with a Redis URL.",
    )
    redis = click.option(
        "--redis", "redis_url", metavar="URL", help="URL of the state Redis. [env var: UMBEL_REDIS_URL]"
    )
    return redis(state(app_option(command)))


def app_option(command: F) -> F:
    """Add `--app`, which `own_app` and `configured` read."""

    def remember(ctx: click.Context, option: click.Parameter, name: str | None) -> None:
        ctx.meta[_APP] = name

    return click.option(
        "--app",
        metavar="MODULE:APP",
        expose_value=False,
        callback=remember,
        help="Your Celery app, if umbel is installed in one: its Redis, broker and routes are used.",
    )(command)


def app_name() -> str | None:
    """The value of the current command's `--app`."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_APP)
