"""`umbel doctor`: examine a deployment and print the findings."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict

import click

from ...celery_app.app import create_app
from ...doctor.examine import examine, remove_unused_libraries
from ...doctor.redis_rules import Finding, Level
from ..deployment.existing import configured, existing_settings
from ..deployment.options import deployment_options
from ..deployment.own_app import own_app
from ..output import print_json

_MARKS: dict[Level, tuple[str, str]] = {
    "fine": ("ok", "green"),
    "note": ("note", "cyan"),
    "warning": ("warning", "yellow"),
    "danger": ("DANGER", "red"),
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--remove-unused", is_flag=True, help="Remove script libraries that no registered worker uses.")
@deployment_options
def doctor(as_json: bool, remove_unused: bool, redis_url: str | None, state: str | None) -> None:
    """Check Redis, broker and workers, and suggest fixes.

    Exits with 1 if data could be lost or a server does not answer.
    """
    with ExitStack() as stack:
        is_embedded = configured(redis_url).redis_url is None
        settings = stack.enter_context(existing_settings(redis_url, state))
        own = own_app()
        app = create_app(settings) if own is None else own
        if remove_unused:
            for name in remove_unused_libraries(settings):
                click.echo(f"removed {name}", err=as_json)
        findings = examine(settings, app, is_embedded=is_embedded, is_own_app=own is None)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _print(finding)
    if any(finding.level == "danger" for finding in findings):
        sys.exit(1)


def _print(finding: Finding) -> None:
    mark, colour = _MARKS[finding.level]
    click.echo(f"{click.style(f'{mark:<8}', fg=colour)} {finding.about}: {finding.text}")
    if finding.fix:
        click.echo(f"{'':<8} → {finding.fix}")
