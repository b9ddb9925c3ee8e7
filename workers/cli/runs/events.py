"""`umbel events`: the events a run publishes, from its log and, with `--follow`, live."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click

from ....orchestration.connection.portal import Portal
from ....orchestration.model.tagged_json import fields_of, untagged
from ....orchestration.store.verbs import Store
from ....orchestration.streams.log import EVENT, read_page
from ....orchestration.streams.reader import StreamEvent, StreamHub
from ..deployment.existing import existing_store
from ..deployment.options import deployment_options
from ..output import note, say
from .find import find_run


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--follow", "-f", is_flag=True, help="Continue until the run has ended.")
@click.option("--after", type=int, default=-1, metavar="N", help="Only events after number N.")
@click.option("--internal", is_flag=True, help="Include umbel's own events: step states, idleness, unhandled events.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@deployment_options
def events(
    run_id: str, follow: bool, after: int, internal: bool, as_json: bool, redis_url: str | None, state: str | None
) -> None:
    """Print the events RUN has published, one per line: number, event, step, fields."""
    with existing_store(redis_url, state) as (store, portal), closing(StreamHub(store)) as hub:
        run_id = portal.call(find_run(store, run_id))
        followed = _followed(hub, run_id, after, internal)
        found = followed if follow else _logged(store, portal, run_id, after, internal)
        for event in found:
            if as_json:
                click.echo(_as_json(event))
            else:
                say(_as_text(event))


def _logged(store: Store, portal: Portal, run_id: str, after: int, internal: bool) -> Iterator[StreamEvent]:
    """The events that are in the log now."""
    while True:
        page = portal.call(read_page(store, run_id, after, with_traces=internal))
        if page.first_missing is not None:
            _report_missing(page.first_missing)
        yield from (entry.decoded() for entry in page.entries if internal or entry.kind == EVENT)
        if page.is_last:
            return
        after = page.settled


def _followed(hub: StreamHub, run_id: str, after: int, internal: bool) -> Iterator[StreamEvent]:
    reader = hub.reader(run_id, after, internal)
    is_reported = False
    for event in reader.events():
        if reader.first_missing is not None and not is_reported:
            is_reported = True
            _report_missing(reader.first_missing)
        yield event


def _report_missing(first: int) -> None:
    note(f"The log is incomplete: events from number {first} on were dropped (see UMBEL_STREAM_MAX_EVENTS).")


def _as_json(event: StreamEvent) -> str:
    found = {
        "seq": event.seq,
        "type": event.envelope.type,
        "step": event.step or None,
        "attempt": event.attempt or None,
        "value": untagged(event.envelope.value()),
    }
    return json.dumps(found, ensure_ascii=False)


def _as_text(event: StreamEvent) -> str:
    name = event.envelope.type.rpartition(".")[2]
    fields = fields_of(event.envelope.value())
    words = [str(event.seq), name, *([f"from {event.step}"] if event.step else [])]
    trace = _taken_traceback(fields)
    if fields:
        words.append(json.dumps(fields, ensure_ascii=False))
    return "  ".join(words) + textwrap.indent(f"\n{trace}", "    ") if trace else "  ".join(words)


def _taken_traceback(fields: dict[str, Any]) -> str:
    """Remove the traceback from the fields of a failure and return it, to be printed on lines of its own."""
    exception = fields.get("exception")
    return str(exception.pop("exception_traceback", "")) if isinstance(exception, dict) else ""
