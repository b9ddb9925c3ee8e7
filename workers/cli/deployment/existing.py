"""The settings of a deployment, and the runs in it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ....orchestration.connection.portal import Portal
from ....orchestration.connection.settings import Settings
from ....orchestration.model.errors import NotConfigured, StoreUnavailable
from ....orchestration.store.nodes import connection_to
from ....orchestration.store.verbs import Store
from ...embedded.folder import ServerFolder, state_folder
from ...embedded.redis_server import EmbeddedRedis
from ...embedded.supervisor import Supervisor
from ..output import note
from .options import app_name


def given_installation() -> Any:
    """`own_app.installation()`, imported only with `--app`: the import takes as long as all others of a command."""
    return None if app_name() is None else importlib.import_module(".own_app", __package__).installation()


def configured(redis_url: str | None) -> Settings:
    """The settings of the environment, or of the app of `--app`; a given URL takes precedence. They may lack a URL.

    Raises:
        ConfigurationError: A variable is unknown or invalid.
    """
    given = {} if redis_url is None else {"redis_url": redis_url}
    found = given_installation()
    if found is None:
        return Settings.from_environment(None, **given)
    settings: Settings = found.settings
    return settings.model_copy(update=given)


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
    """Check that Redis is usable and its deployment has these settings; passes if Redis does not answer.

    Raises:
        ConfigurationError: The deployment has other settings, or Redis refuses the credentials or is too old.
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


@contextmanager
def existing_store(redis_url: str | None, state: str | None) -> Iterator[tuple[Store, Portal]]:
    """The store of a deployment with `existing_settings`, and the portal for calling it.

    For commands that start and resume nothing; others need a runtime.
    """
    with existing_settings(redis_url, state) as settings:
        assert settings.redis_url is not None
        portal = Portal("umbel-command")
        try:
            yield Store(connection_to(settings.redis_url, portal), settings), portal
        finally:
            portal.close()
