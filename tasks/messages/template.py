"""Templates of Celery messages: built once per step by Celery and kombu themselves, then filled in for each message.

Sending a task costs Celery some hundred microseconds, most of it for parts that are the same every time. A template is
`app.send_task` would put on a Redis queue, taken from kombu's in-memory transport. Many filled-in messages are pushed
in one round trip. Keys and wire format are kombu's, so any Celery worker and Flower read them.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package most of whose functions carry no annotations.

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from celery import Celery
from kombu.connection import Connection
from kombu.transport import memory, virtual

from ...orchestration.connection.keys import check_run_id
from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.store.replies import Dispatch

#: Placeholders for what differs from message to message; user text never gets into a template.
_TASK_ID, _SHOWN, _BODY, _TAG = "\x02task-id\x03", "\x02shown\x03", "\x02body\x03", "\x02tag\x03"

#: Message header by which a consumer recognises umbel's messages, even for tasks it lacks: the workflow's name.
HEADER = "umbel_workflow"

#: Work ids of runs started from a snapshot contain names, arrows and other characters; `|` separates ids.
_WORK_ID = re.compile(r"[^|\x00-\x1f\x7f]{1,1024}")


def send_options(dispatch: Dispatch, workflow: str, task_id: str, shown: str) -> dict[str, Any]:
    """The options that umbel sends each of its tasks with: ids only, and Celery keeps no result."""
    return {
        "task_id": task_id,
        "queue": dispatch.queue,
        "priority": dispatch.priority or None,
        "headers": {HEADER: workflow},
        "argsrepr": shown,
        "kwargsrepr": "{}",
        "ignore_result": True,
        "serializer": "json",
        "retry": False,
    }


def message_fault(body: object) -> str | None:
    """Say why a task's decoded body is not a dispatch, or None. Anyone with access to the broker may have written it.

    A dispatch that passes is still only a hint: work that does not exist or cannot be claimed is not executed.
    """
    arguments = body[0] if isinstance(body, list | tuple) and len(body) == 3 else None
    if not isinstance(arguments, list | tuple) or len(arguments) != 3 or body[1]:  # type: ignore[index]
        return "expected three arguments: run id, work id, dispatch number"
    run_id, work_id, dispatch_no = arguments
    try:
        check_run_id(run_id)
    except WorkflowRuntimeError as error:
        return f"expected a run id: {error}"
    if not isinstance(work_id, str) or not _WORK_ID.fullmatch(work_id):
        return f"expected a work id of run {run_id!r}, found {work_id!r:.80}"
    if not isinstance(dispatch_no, int) or isinstance(dispatch_no, bool) or not 0 < dispatch_no < 2**53:
        return f"expected a dispatch number for work item {work_id!r} of run {run_id!r}, found {dispatch_no!r:.80}"
    return None


def task_id_of(dispatch: Dispatch) -> str:
    """The Celery id of a dispatch; duplicates of one dispatch have the same id."""
    return task_id(dispatch.work_id, dispatch.dispatch_no)


def task_id(work_id: str, dispatch_no: int) -> str:
    """The Celery id of the work item's dispatch with this number, from 1."""
    return f"{work_id}-{dispatch_no}"


def shown_arguments(dispatch: Dispatch) -> str:
    """The arguments as monitors show them."""
    return f"({dispatch.run_id}, {dispatch.work_id}, {dispatch.dispatch_no})"


class _Channel(memory.Channel):
    """A channel with queues of its own; those of kombu's channel are shared with all threads and with other apps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queues: dict[str, Any] = {}


class _Transport(memory.Transport):
    """Shares no state with other connections, for the same reason."""

    Channel = _Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state = virtual.BrokerState()


@dataclass(frozen=True, slots=True)
class Template:
    """A message with blanks: the texts, the blanks between them, and the rest of its body after the arguments."""

    texts: tuple[str, ...]
    blanks: tuple[str, ...]
    rest_of_body: str

    @staticmethod
    def of(app: Celery, task: str, dispatch: Dispatch, workflow: str) -> Template:
        """The template for what the app would send for this step."""
        with Connection(transport=_Transport) as connection, connection.channel() as channel:
            producer = app.amqp.Producer(channel, auto_declare=False)
            options = send_options(dispatch, workflow, _TASK_ID, _SHOWN)
            app.send_task(task, args=("", "", 0), root_id=_TASK_ID, producer=producer, **options)
            message = channel._get(dispatch.queue)
        rest_of_body = json.dumps(json.loads(base64.b64decode(message["body"]))[1:])[1:]
        message["body"] = _BODY
        message["properties"]["delivery_tag"] = _TAG
        message["headers"]["parent_id"] = None  # otherwise the id of the task that happens to run here
        written = {json.dumps(blank)[1:-1]: blank for blank in (_TASK_ID, _SHOWN, _BODY, _TAG)}
        parts = re.split("|".join(f"({re.escape(name)})" for name in written), json.dumps(message))
        pieces = [part for part in parts if part is not None]
        return Template(tuple(pieces[::2]), tuple(written[name] for name in pieces[1::2]), rest_of_body)

    def fill(self, dispatch: Dispatch) -> str:
        """The message of one dispatch."""
        arguments = json.dumps([dispatch.run_id, dispatch.work_id, dispatch.dispatch_no])
        values = {
            _TASK_ID: task_id_of(dispatch),
            _SHOWN: shown_arguments(dispatch),
            _BODY: base64.b64encode(f"[{arguments}, {self.rest_of_body}".encode()).decode(),
            _TAG: str(uuid4()),
        }
        parts = [self.texts[0]]
        for blank, text in zip(self.blanks, self.texts[1:], strict=True):
            parts += (values[blank], text)
        return "".join(parts)
