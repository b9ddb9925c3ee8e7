"""What umbel's log records are about: the closed list of their `action` fields, for filters, alarms and counts.

Texts of log lines may change with any release; an action keeps its name and meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: action -> when it is logged. The table in docs/running-in-production.md is this one.
ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "ack_owed": "an acknowledgement waits for the broker",
        "admission_postponed": "a limited run's place was neither taken nor passed on at once; the sweep does it",
        "backlog_unknown": "the broker did not say how long a queue is",
        "broadcast_dropped": "a remote control message could not be understood",
        "commit_refused": "an outcome came after its run had ended or its work was given away",
        "dispatch_failed": "messages could not be sent; the sweep redispatches the work",
        "events_not_sent": "task events of steps that a worker went on with did not reach the broker",
        "fell_behind": "a stream reader asked for events that are no longer kept",
        "flush_postponed": "progress events wait for Redis",
        "goodbye_failed": "a stopping worker could not remove its entry",
        "heartbeat_failed": "a heartbeat did not get through",
        "large_event": "an event is above the warning size; said once per class",
        "large_state": "a state value is above the warning size",
        "listener_error": "a stream listener raised",
        "live_back": "the live connection is back",
        "live_error": "the live connection met an error of its own and is made anew",
        "live_lost": "the live connection is interrupted; streams are read from the log meanwhile",
        "look_failed": "runs that are followed could not be looked at; tried again",
        "loop_blocked": "a step blocks the asyncio pool's event loop; the log shows where",
        "loop_stuck": "a step still blocked an asyncio worker's event loop when the worker ended; it was left behind",
        "message_lost": "a message that could not be understood could not be kept either; only this line is left of it",
        "message_refused": "a message on an umbel queue was malformed; it was counted and set aside",
        "message_set_aside": "a broker message could not be understood; it is in the quarantine",
        "metrics_incomplete": "the broker did not say how many messages it has in quarantine",
        "needs_code": "work was parked because no code for it is loaded",
        "owner_gone": "this process was declared lost and begins anew",
        "owner_lost": "another process was declared lost; its work is handed on",
        "park_failed": "parking did not get through",
        "pool_draining": "an asyncio worker waits for its running tasks before it ends",
        "pool_error": "a callback around a task failed in the asyncio pool; it goes on",
        "reader_cut": "an HTTP stream was broken off before its run ended; its reader may come back",
        "redis_unfit": "a worker starts on a Redis that is set to lose data; the text says how to mend it",
        "redispatch": "unclaimed work was dispatched again",
        "request_failed": "a request met an error of the server's own",
        "request_unavailable": "a request could not be answered, mostly because Redis did not",
        "run_started": "a run was started by this process",
        "saved_work_dropped": "a run was begun with an unfinished snapshot and new input; its saved work was dropped",
        "sent_event_not_gathered": "a step sent an event that only a returned list brings to the step that gathers it",
        "set_back": "Redis came back with an earlier state; a stream reader goes on from there",
        "single_fetch": "messages are fetched one by one, because the broker did not answer",
        "start_arguments_ignored": "`run()` got a start event and keyword arguments",
        "step_cancelled": "a running step was cancelled",
        "step_continued": "a worker went on with a step past the broker, as a Celery task of its own",
        "step_failed": "an attempt failed",
        "step_hung": "a step did not react to its time limit; it counts as failed and may still occupy its worker",
        "step_left": "a continued step was broken off by an error of umbel's own; it is executed again",
        "sweep_error": "one thing could not be settled; the next sweep tries again",
        "sweep_orphan": "something of a run that is gone was found and left",
        "sweep_postponed": "the sweep waits for Redis",
        "task_given_up": "a task did not end at the worker's shutdown and was left behind",
        "tasks_adrift": "a broker connection was closed while its tasks run; they go on",
        "told": "what `Workflow(verbose=True)` tells",
        "unacked_not_filed": "a message was not listed as taken; if its worker dies, the sweep redispatches the work",
        "wake_failed": "a short retry delay is left to the sweep",
    }
)
