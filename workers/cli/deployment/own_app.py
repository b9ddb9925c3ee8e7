"""The Celery app that `--app` names."""

from __future__ import annotations

import os
import sys

from celery import Celery
from celery.app.utils import find_app

from ....orchestration.model.errors import ConfigurationError
from ...celery_app.app import Installation
from .options import app_name


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
