"""The `action` values of umbel's log records, a closed list for filters, alerts and counts.

Texts of log lines may change with any release; an action keeps its name and meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: action -> when it is logged. The table in docs/running-in-production.md is this one.
ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "ack_owed": "an acknowledgement is waiting for the broker",
        "admission_postponed": "a limited run was not admitted or released at once; the sweep does it",
        "backlog_unknown": "the broker did not report the length of a queue",
        "broadcast_dropped": "a remote control message could not be decoded",
        "commit_refused": "an outcome arrived after its run had ended or its work had been reassigned",
        "direct_delivery": "messages of an asyncio worker begin or cease to bypass Celery's consumer",
        "dispatch_failed": "messages could not be sent; the sweep redispatches the work",
        "drain_over": "steps went on for longer than `UMBEL_DRAIN_SECONDS` after SIGTERM; they run again elsewhere",
        "events_not_sent": "task events of continued steps did not reach the broker",
        "fell_behind": "a stream reader asked for events that are no longer retained",
        "flush_postponed": "progress events are waiting for Redis",
        "follow_failed": "the followed runs could not be read; retrying",
        "goodbye_failed": "a stopping worker could not deregister",
        "heartbeat_failed": "a heartbeat did not reach Redis",
        "large_event": "an event exceeds the warning size; logged once per class",
        "large_state": "a state value exceeds the warning size",
        "listener_error": "a stream listener raised",
        "live_back": "the live connection is restored",
        "live_error": "the live connection failed unexpectedly and is reopened",
        "live_lost": "the live connection is interrupted; streams are read from the log meanwhile",
        "loop_blocked": "a step blocks the asyncio pool's event loop; the log shows where",
        "loop_error": "a task of a step raised what would have ended the event loop",
        "loop_stuck": "a step still blocked an asyncio worker's event loop when the worker stopped; it was abandoned",
        "message_lost": "an undecodable message could not be quarantined; this line is the only record of it",
        "message_quarantined": "a broker message could not be decoded; it was quarantined",
        "message_refused": "a message on an umbel queue was malformed; it was counted and quarantined",
        "metrics_incomplete": "the broker did not report the number of quarantined messages",
        "needs_code": "work was parked because its code is not loaded",
        "new_deployment": "a deployment begins in a Redis that has others: is `UMBEL_KEY_PREFIX` right?",
        "owner_gone": "lease lost: this process was declared dead; it continues under a new incarnation",
        "owner_lost": "another process was declared dead; its work is redispatched",
        "park_failed": "parking did not reach Redis",
        "pool_draining": "an asyncio worker waits for its running tasks before it stops",
        "pool_error": "a callback around a task failed in the asyncio pool; the pool continues",
        "queues_unused": "a worker starts, and none of its steps use the queues that it takes messages from",
        "reader_cut": "an HTTP stream was closed before its run ended; the reader may reconnect",
        "redis_not_examined": "Redis does not let its user ask whether its settings may lose data",
        "redis_unfit": "a worker starts on a Redis that is configured to lose data; the text says how to fix it",
        "redispatch": "unclaimed work was dispatched again",
        "request_failed": "a request hit an internal error of the server",
        "request_unavailable": "a request could not be answered, usually because Redis did not respond",
        "run_started": "this process started a run",
        "saved_work_dropped": "a run was started with an unfinished snapshot and new input; its saved work was dropped",
        "sent_event_not_gathered": "a step sent an event that is gathered only when it is returned in a list",
        "set_back": "Redis came back with an earlier state; a stream reader continues from there",
        "single_fetch": "messages are fetched one by one because the broker did not respond",
        "start_arguments_ignored": "`run()` got a start event and keyword arguments",
        "step_cancelled": "a running step was cancelled",
        "step_continued": "a worker continued with a step without the broker, as its own Celery task",
        "step_failed": "an attempt failed",
        "step_hung": "a step ignored its time limit; it counts as failed and may still occupy its worker",
        "step_left": "a continued step was interrupted by an internal error; it is executed again",
        "step_unrecorded": "an outcome was not recorded although Redis answers; the step is repeated or its run fails",
        "sweep_error": "one item could not be processed; the next sweep retries it",
        "sweep_orphan": "an index entry of a deleted run was found and skipped",
        "sweep_postponed": "Redis is unreachable; the sweep is retried",
        "task_class_unused": "steps are not called through the Celery app's own task class",
        "task_given_up": "a task did not end at the worker's shutdown and was abandoned",
        "tasks_disconnected": "a broker connection closed while its tasks were running; they continue",
        "unacked_not_filed": "a message was not recorded as taken; if its worker dies, the sweep redispatches the work",
        "unknown_run": "a message of a run that this deployment does not have was dropped: two may share a queue",
        "unknown_settings": "variables `UMBEL_…` that are no settings of this release were ignored",
        "verbose": "output of `Workflow(verbose=True)`",
        "wake_failed": "a short retry delay is left to the sweep",
    }
)
