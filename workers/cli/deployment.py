"""Which deployment a command works on: a configured Redis, or the embedded one of a state folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import click

from ...orchestration.model.errors import NotConfigured
from ...orchestration.store.settings import Settings
from ...tasks.client.runtime import Runtime
from ..embedded.folder import ServerFolder, state_folder
from ..embedded.redis_server import EmbeddedRedis
from ..embedded.supervisor import Supervisor

F = TypeVar("F", bound=Callable[..., object])


def deployment_options(command: F) -> F:
    """Add `--redis` and `--state`, which arrive as `redis_url` and `state`."""
    state = click.option(
        "--state", metavar="NAME", default="default", show_default=True, help="Which embedded Redis, if none is given."
    )
    redis = click.option("--redis", "redis_url", metavar="URL", help="The state Redis; else UMBEL_REDIS_URL.")
    return redis(state(command))


def configured(redis_url: str | None) -> Settings:
    """The settings of the environment, with a given URL put first; they may lack a URL.

    Raises:
        ConfigurationError: A variable is unknown or does not fit.
    """
    given = {} if redis_url is None else {"redis_url": redis_url}
    return Settings.from_environment(None, **given)


@contextmanager
def embedded(settings: Settings, state: str) -> Iterator[tuple[Settings, Supervisor]]:
    """The embedded Redis of a state folder, attached to or started, for as long as the block lasts.

    Yields:
        The settings with its URL, and a supervisor for the processes that are to end before it.

    Raises:
        EmbeddedRedisUnavailable: There is no Redis server to start; the text says how to get one.
    """
    with Supervisor() as supervisor, EmbeddedRedis.in_folder(state_folder(state), supervisor=supervisor) as redis:
        yield settings.model_copy(update={"redis_url": redis.url, "broker_url": None}), supervisor


@contextmanager
def existing_settings(redis_url: str | None, state: str) -> Iterator[Settings]:
    """The settings of a deployment that is there already; an embedded Redis is started just for the block.

    Raises:
        NotConfigured: Neither a URL is given nor has anything ever run in the state folder.
    """
    settings = configured(redis_url)
    with ExitStack() as stack:
        if settings.redis_url is None:
            folder = state_folder(state)
            if not ServerFolder(folder).configuration.exists():
                raise NotConfigured(
                    f"There is no Redis to look into: neither --redis nor UMBEL_REDIS_URL is given, and nothing has "
                    f"run in the state folder {folder} yet. Give a URL, or start something with `umbel run TARGET` or "
                    f"`umbel dev TARGET` (--state names another folder)."
                )
            settings, _ = stack.enter_context(embedded(settings, state))
        yield settings


@contextmanager
def existing(redis_url: str | None, state: str) -> Iterator[Runtime]:
    """A runtime on `existing_settings`."""
    with existing_settings(redis_url, state) as settings:
        runtime = Runtime(settings)
        try:
            yield runtime
        finally:
            runtime.close()
