"""What is wrong with a deployment, and what would be: Redis, broker, Celery settings, workers, work that nobody takes.

Reads only, in a few dozen commands however many runs there are. An examination goes as far as it can: what cannot be
asked is a finding too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from ...orchestration.engine.worker_directory import SeenWorker, seen_workers
from ...orchestration.inspection.long_running import long_running
from ...orchestration.inspection.metrics import unclaimed
from ...orchestration.model.errors import UmbelError
from ...orchestration.store.blocking import BlockingStore as Store
from ...orchestration.store.connection import connect
from ...orchestration.store.settings import Settings, redact_url
from ..transport.quarantine import quarantine_prefix, quarantined_of
from .findings import Finding
from .redis_info import ask_server
from .redis_rules import judge_server

#: Members of an index looked at per shard.
_SAMPLE = 200
#: Seconds after which a dispatch that nobody took is worth a word.
_OVERDUE_SECONDS = 60.0
#: A step without a time limit that is executed for longer is told of.
_LONG_SECONDS = 600.0
#: Running runs looked at, to find workflows that nobody serves.
_RUNS = 1_000


def examine(settings: Settings, app: Celery, *, is_embedded: bool = False, is_own_app: bool = True) -> list[Finding]:
    """Examine a deployment.

    Args:
        settings: Its settings, with a Redis URL.
        app: The Celery app that its workers use.
        is_embedded: The Redis is umbel's own embedded one.
        is_own_app: The app is one that umbel made, so that its settings need no look.
    """
    findings = list(_settings_of(app)) if not is_own_app else []
    findings += _broker(settings, app)
    client = connect(settings.redis_url or "")
    try:
        findings += judge_server(ask_server(client), is_private=is_embedded)
        findings += _state(Store(client, settings))
    except (RedisError, OSError, UmbelError) as error:
        findings.append(
            Finding(
                "danger",
                "redis",
                f"The state Redis at {redact_url(settings.redis_url or '')} does not answer: {_said(error)}.",
                "Start it, or mend UMBEL_REDIS_URL.",
            )
        )
    finally:
        client.close()
    return findings


# -- Celery and its broker ---------------------------------------------------------------------------------------------


def _settings_of(app: Celery) -> Iterator[Finding]:
    """Settings of a Celery app of one's own that umbel cannot live with, or that will surprise."""
    conf = app.conf
    dangers = [
        (
            conf.task_always_eager,
            "task_always_eager executes tasks in the caller, past broker and leases",
            "Set it to False.",
        ),
        (
            not {"json", "application/json"} & set(conf.accept_content or ()),
            "accept_content lacks 'json', which umbel's messages are written in",
            "Add it.",
        ),
        (conf.task_protocol == 1, "task_protocol 1 has no message headers", "Use 2."),
    ]
    surprises = [
        (
            conf.task_time_limit or conf.task_soft_time_limit,
            "task_time_limit and task_soft_time_limit end steps without umbel's knowing, which counts as a lost worker",
            "Use @step(timeout=…) for umbel's steps, and task_annotations for the limits of your own tasks.",
        ),
        (
            (conf.worker_prefetch_multiplier or 0) != 1,
            f"worker_prefetch_multiplier is {conf.worker_prefetch_multiplier}: a worker keeps steps from idle ones",
            "Set it to 1.",
        ),
        (
            _takes_any_certificate(conf),
            "Celery does not verify the certificate of a rediss:// broker unless it is told to",
            "Set broker_use_ssl = {'ssl_cert_reqs': ssl.CERT_REQUIRED}, or add ?ssl_cert_reqs=required to the URL.",
        ),
        (
            conf.task_default_rate_limit,
            "task_default_rate_limit holds umbel's steps back as well",
            "Use task_annotations for the tasks that are meant.",
        ),
    ]
    for level, conditions in (("danger", dangers), ("warning", surprises)):
        for is_so, text, mend in conditions:
            if is_so:
                yield Finding("danger" if level == "danger" else "warning", "celery", f"{text}.", mend)


def _takes_any_certificate(conf: Any) -> bool:
    url = conf.broker_read_url or conf.broker_url
    return isinstance(url, str) and url.startswith("rediss://") and not conf.broker_use_ssl and "ssl_" not in url


def _broker(settings: Settings, app: Celery) -> Iterator[Finding]:
    url = settings.broker_url or settings.redis_url or ""
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
    except (OperationalError, OSError, *app.connection_for_read().connection_errors) as error:
        yield Finding(
            "danger",
            "broker",
            f"The broker at {redact_url(url)} does not answer: {_said(error)}. Runs are safe, but nothing goes on.",
            "Start it, or mend UMBEL_BROKER_URL.",
        )
        return
    yield Finding("fine", "broker", f"{redact_url(url)} answers")
    for queue, found in quarantined_of(settings).items():
        reason = f" The last one: {found.latest.reason}." if found.latest is not None else ""
        kept = f"{quarantine_prefix(settings)}umbel:quarantine:{queue}"
        yield Finding(
            "warning",
            "messages",
            f"{found.count} messages of queue {queue!r} could not be understood and were set aside.{reason}",
            f"Find out who sends them; they lie in {kept}. Delete that list when done.",
        )


# -- what the state tells ----------------------------------------------------------------------------------------------


def _state(store: Store) -> Iterator[Finding]:
    workers = seen_workers(store)
    yield from _workers(workers)
    yield from _unserved(store, workers)
    yield from _parked(store)
    yield from _unclaimed(store, workers)
    yield from _long_running(store)
    yield from _refused(store)


def _workers(workers: list[SeenWorker]) -> Iterator[Finding]:
    live = [worker for worker in workers if worker.is_live]
    for worker in live:
        served = ", ".join(worker.workflows) or "no workflow"
        yield Finding("fine", "worker", f"{worker.name} serves {served}, from queues {', '.join(worker.queues)}")
    for worker in workers:
        if not worker.is_live:
            yield Finding(
                "note",
                "worker",
                f"{worker.name} has been silent for {worker.silent_seconds:.0f} s; it was killed or is cut off.",
                "Nothing is lost: others take over its steps. Start it again if it is needed.",
            )
    if not live:
        yield Finding("warning", "worker", "No live worker: runs wait.", "Start one: umbel worker TARGET")


def _unserved(store: Store, workers: list[SeenWorker]) -> Iterator[Finding]:
    running = Counter(record.workflow for record in store.runs(status="running", limit=_RUNS))
    for workflow, number in running.items():
        if not any(worker.serves(workflow) for worker in workers):
            yield Finding(
                "warning",
                "runs",
                f"{number} running runs of {workflow} are served by no live worker.",
                "Start a worker that loads it: umbel worker TARGET",
            )


def _refused(store: Store) -> Iterator[Finding]:
    number = int(store.client.hget(store.keys.in_shard(0, "counters"), "refused_messages") or 0)
    if number:
        yield Finding(
            "warning",
            "dispatches",
            f"{number} messages called themselves dispatches of umbel and were none; nothing came of them.",
            "Find out who else writes to the broker, and let only umbel's processes do so. The log tells what was "
            "wrong (message_refused).",
        )


def _parked(store: Store) -> Iterator[Finding]:
    pipe = store.client.pipeline(transaction=False)
    for shard in range(store.settings.shards):
        key = store.keys.in_shard(shard, "parked")
        pipe.zcard(key).zrange(key, 0, _SAMPLE - 1)
    answers: list[Any] = pipe.execute()
    total = sum(answers[::2])
    names = Counter(_parked_step(member.decode()) for members in answers[1::2] for member in members)
    if total:
        yield Finding(
            "warning",
            "parked",
            f"{total} steps wait for a worker that has their code: "
            + ", ".join(f"{name} ({number})" for name, number in names.most_common(5))
            + ("" if len(names) <= 5 else ", …"),
            "Start a worker that loads them; it takes them up at once.",
        )


def _parked_step(member: str) -> str:
    workflow, step, *_ = member.split("|")
    return f"{step!r} of {workflow}"


def _unclaimed(store: Store, workers: list[SeenWorker]) -> Iterator[Finding]:
    consumed = {queue for worker in workers if worker.is_live for queue in worker.queues}
    for queue, waiting in unclaimed(store, sample=_SAMPLE).items():
        age = f"{waiting.oldest_seconds:.0f} s"
        about = f"{waiting.number} steps dispatched to {queue!r} are unclaimed, the oldest for {age}."
        if queue not in consumed:
            yield Finding(
                "warning",
                "queue",
                f"{about} No live worker takes messages from it.",
                f"Start one that does: umbel worker TARGET --queues {queue}",
            )
        elif waiting.oldest_seconds > _OVERDUE_SECONDS:
            yield Finding("warning", "queue", about, "The workers are behind: start more of them.")
        else:
            yield Finding("fine", "queue", about)


def _long_running(store: Store) -> Iterator[Finding]:
    without_limit = [each for each in long_running(store, _LONG_SECONDS) if not each.has_time_limit]
    if without_limit:
        longest = without_limit[0]
        worker, *process = longest.owner.split("|")
        yield Finding(
            "note",
            "steps",
            f"{len(without_limit)} executions have gone on for more than {_LONG_SECONDS / 60:.0f} minutes and have no "
            f"time limit. The longest: step {longest.step!r} of run {longest.run_id!r}, for {longest.seconds / 60:.0f} "
            f"minutes, on {worker} (process {':'.join(process[:2])}).",
            "If it hangs, `umbel cancel` its run, or kill that process: the step is executed again. "
            "@step(timeout=…) ends such a step by itself.",
        )


def _said(error: BaseException) -> str:
    return str(error).rstrip(".")
