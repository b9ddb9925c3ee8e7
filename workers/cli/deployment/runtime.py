"""A runtime of a deployment, for commands that start and resume runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ....orchestration.connection.settings import Settings
from ....tasks.client.runtime import Runtime
from .existing import existing_settings, given_installation


def runtime_of(settings: Settings) -> Runtime:
    """A runtime with these settings, which publishes through the app that `--app` names."""
    found = given_installation()
    return Runtime(settings) if found is None else Runtime(settings, app=found.app, registry=found.registry)


@contextmanager
def existing_runtime(redis_url: str | None, state: str | None) -> Iterator[Runtime]:
    """A runtime with `existing_settings`."""
    with existing_settings(redis_url, state) as settings:
        runtime = runtime_of(settings)
        try:
            yield runtime
        finally:
            runtime.close()
