"""`umbel ping`: a liveness check of workers, for Kubernetes, compose and scripts."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import NoReturn

import click

from ....orchestration.connection.portal import Portal
from ....orchestration.connection.settings import redact_url
from ....orchestration.engine.worker_directory import SeenWorker, refused_writes, seen_workers
from ....orchestration.model.errors import NotConfigured, StoreUnavailable
from ....orchestration.store.nodes import connection_to
from ....orchestration.store.verbs import Store
from ..deployment.existing import configured
from ..deployment.options import app_option
from ..deployment.worker_names import expanded
from ..output import note

#: How long requests are retried while Redis is away, and how long everything that is asked of it may take. A probe has
#: a time limit of its own, often ten seconds with the start of this process, and then counts as failed.
_PATIENCE_SECONDS, _TOTAL_SECONDS = 0.5, 2.0


@click.command()
@click.argument("name", required=False)
@click.option("--strict", is_flag=True, help="Exit with 1 also if Redis does not answer, or takes no writes.")
@click.option("--redis", "redis_url", metavar="URL", help="State Redis. [env var: UMBEL_REDIS_URL]")
@app_option
def ping(name: str | None, strict: bool, redis_url: str | None) -> None:
    """Exit with 0 if the worker NAME is alive, else with 1. Without NAME: any worker of this host, or container.

    NAME is the name given to `umbel worker --name`, with or without @HOST. A worker is alive if it has announced itself
    recently; its main process does this, however long its steps take. If Redis does not answer within two seconds, or
    takes no writes, nothing is known about workers, and restarting them would not help: the exit code is 0, unless
    --strict is given.
    """
    name = None if name is None else expanded(name)
    settings = configured(redis_url)
    if settings.redis_url is None:
        raise NotConfigured(
            "Neither --redis nor UMBEL_REDIS_URL is set, so there is no deployment to look for workers in."
        )
    portal = Portal("umbel-ping")
    try:
        store = Store(connection_to(settings.redis_url, portal, patience_seconds=_PATIENCE_SECONDS), settings)
        workers = portal.call(_seen(store, name))
    except StoreUnavailable as error:
        note(str(error))
        _end(1 if strict else 0)
    finally:
        portal.close()
    asked = [worker for worker in workers if _is_asked_for(worker, name)]
    if live := [worker for worker in asked if worker.is_live]:
        click.echo(f"{live[0].name} is alive: it announced itself {live[0].silent_seconds:.1f} s ago.")
        return
    if asked:
        note(f"{asked[0].name} has been silent for {asked[0].silent_seconds:.0f} s.")
    else:
        where = f"called {name!r}" if name else f"on host {socket.gethostname()!r}"
        others = ", ".join(worker.name for worker in workers if worker.is_live) or "none"
        note(f"No worker {where} has announced itself. Live: {others}.")
    sys.exit(1)


async def _seen(store: Store, name: str | None) -> list[SeenWorker]:
    try:
        async with asyncio.timeout(_TOTAL_SECONDS):
            workers = await seen_workers(store)
            is_alive = any(worker.is_live and _is_asked_for(worker, name) for worker in workers)
            refused = None if is_alive else await refused_writes(store)
    except TimeoutError as error:
        where = redact_url(store.settings.redis_url or "")
        raise StoreUnavailable(f"Redis at {where} did not answer within {_TOTAL_SECONDS:g} s.", where) from error
    if refused is not None:
        raise refused
    return workers


def _end(code: int) -> NoReturn:
    """End now: the interpreter would first wait for a thread that looks up a host name, perhaps for half a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_asked_for(worker: SeenWorker, name: str | None) -> bool:
    if name is None:
        return worker.host == socket.gethostname()
    return name in (worker.name, worker.name.partition("@")[0])
