"""`umbel flower`: Celery's monitor on this deployment's broker."""

from __future__ import annotations

import importlib.util
import os
import socket

import click

from ....orchestration.model.errors import ConfigurationError
from ...celery_app.app import create_app
from ..deployment.existing import existing_settings, refuse_foreign
from ..deployment.options import deployment_options
from ..deployment.own_app import own_app
from ..output import note

#: The login of earlier examples, and where it may still be used.
_KNOWN_LOGIN = "umbel:umbel"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=5555, show_default=True)
@deployment_options
def flower(address: str, port: int, redis_url: str | None, state: str | None) -> None:
    """Start Flower: workers, queues, and every step as a Celery task. It enables the workers' task events.

    Flower is configured by FLOWER_… variables. Everyone who can reach it can stop workers: require a login with
    FLOWER_BASIC_AUTH=user:password.
    """
    if importlib.util.find_spec("flower") is None:
        raise ConfigurationError("Flower is not installed. Install it with: pip install 'umbel[flower]'")
    if os.environ.get("FLOWER_BASIC_AUTH") == _KNOWN_LOGIN and address not in _LOOPBACK:
        raise ConfigurationError(
            f"Flower would be open to everyone who can reach {address}: FLOWER_BASIC_AUTH is the login that earlier "
            "examples contained. Choose a password, for instance with `openssl rand -hex 16`."
        )
    with existing_settings(redis_url, state) as settings:
        refuse_foreign(settings)
        _refuse_taken(address, port)
        app = own_app() or create_app(settings)
        _drop_injected()
        note(f"Flower: http://{address}:{port}")
        app.start(["flower", f"--address={address}", f"--port={port}"])


def _refuse_taken(address: str, port: int) -> None:
    try:
        socket.create_server((address, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ConfigurationError(
            f"Flower cannot listen on {address}:{port}: {reason}. Choose another --port, or stop what uses it."
        ) from error


def _drop_injected() -> None:
    """Remove variables that Kubernetes sets for a Service called `flower`; Flower would read them as its settings."""
    for name, value in list(os.environ.items()):
        if name.startswith("FLOWER_") and value.startswith(("tcp://", "udp://", "sctp://")):
            note(f"Ignored, as set by Kubernetes for a Service called flower: {name}={value}")
            del os.environ[name]
