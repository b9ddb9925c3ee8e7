"""Which deployment a command works on: a configured Redis, or the embedded one of a state folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import click
from celery import Celery
from celery.app.utils import find_app

from ...orchestration.connection.portal import Portal
from ...orchestration.connection.settings import Settings
from ...orchestration.model.errors import ConfigurationError, NotConfigured, StoreUnavailable
from ...orchestration.store.nodes import connection_to
from ...orchestration.store.verbs import Store
from ...tasks.client.runtime import Runtime
from ..celery_app.app import Installation
from ..embedded.folder import ServerFolder, state_folder
from ..embedded.redis_server import EmbeddedRedis
from ..embedded.supervisor import Supervisor
from .output import note

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
    """Add `--app`, which `own_app` and `configured` heed."""

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
    """What `--app` of the current command says."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_APP)


def own_app() -> Celery | None:
    """The app that `--app` names, loaded.

    Raises:
        ConfigurationError: It cannot be loaded.
    """
    name = app_name()
    if name is None:
        return None
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return find_app(name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"The Celery app {name!r} cannot be loaded: {error}. Expected module:app.") from error


def installation() -> Installation | None:
    """umbel in the app that `--app` names; None without `--app`.

    Raises:
        ConfigurationError: The app cannot be loaded, or umbel is not installed in it.
    """
    app = own_app()
    found = getattr(app, "umbel", None)
    if app is not None and not isinstance(found, Installation):
        raise ConfigurationError(
            f"umbel is not installed in the Celery app {app_name()!r}. Call umbel.install(app) where it is made."
        )
    return found


def configured(redis_url: str | None) -> Settings:
    """The settings of the environment; a given URL takes precedence. They may lack a URL.

    Raises:
        ConfigurationError: A variable is unknown or invalid.
    """
    given = {} if redis_url is None else {"redis_url": redis_url}
    if (found := installation()) is not None:
        return found.settings.model_copy(update=given)
    return Settings.from_environment(None, **given)


@contextmanager
def embedded(settings: Settings, state: str | None) -> Iterator[tuple[Settings, Supervisor]]:
    """The embedded Redis of a state folder for a `with` block: attached to if it is running, else started.

    Yields:
        The settings with its URL, and a supervisor for processes that must end before it.

    Raises:
        EmbeddedRedisUnavailable: No Redis server can be started; the message says how to install one.
    """
    with Supervisor() as supervisor, EmbeddedRedis.in_folder(state_folder(state), supervisor=supervisor) as redis:
        yield settings.model_copy(update={"redis_url": redis.url, "broker_url": None}), supervisor


def refuse_foreign(settings: Settings) -> None:
    """Look whether the deployment in Redis is the one of these settings. One that does not answer is let pass.

    Raises:
        ConfigurationError: It has other values, refuses the credentials, or is too old.
    """
    assert settings.redis_url is not None
    portal = Portal("umbel-look")
    try:
        store = Store(connection_to(settings.redis_url, portal, patience_seconds=0.0), settings)
        portal.call(store.command("look at the deployment", "PING"))
    except StoreUnavailable as error:
        note(f"{error} Waiting for it.")
    finally:
        portal.close()


@contextmanager
def existing_settings(redis_url: str | None, state: str | None) -> Iterator[Settings]:
    """The settings of an existing deployment; an embedded Redis is started for the block only.

    Raises:
        NotConfigured: No URL is given, and nothing has run in the state folder.
    """
    settings = configured(redis_url)
    with ExitStack() as stack:
        if settings.redis_url is None:
            folder = state_folder(state)
            if not os.path.exists(ServerFolder(folder).configuration):  # never raises
                raise NotConfigured(
                    f"No Redis to read: neither --redis nor UMBEL_REDIS_URL is set, and nothing has run in the state "
                    f"folder {folder} yet. Set a URL, or start something with `umbel run TARGET` or `umbel dev TARGET` "
                    f"(--state selects another folder)."
                )
            settings, _ = stack.enter_context(embedded(settings, state))
        yield settings


def runtime_of(settings: Settings) -> Runtime:
    """A runtime with these settings, which publishes through the app that `--app` names."""
    found = installation()
    return Runtime(settings) if found is None else Runtime(settings, app=found.app, registry=found.registry)


@contextmanager
def existing(redis_url: str | None, state: str | None) -> Iterator[Runtime]:
    """A runtime with `existing_settings`."""
    with existing_settings(redis_url, state) as settings:
        runtime = runtime_of(settings)
        try:
            yield runtime
        finally:
            runtime.close()
