"""What is wrong with a deployment, or may become so: Redis, broker, Celery settings, workers, unclaimed work.

Changes nothing, with a few dozen commands regardless of the number of runs. An examination goes as far as it can: a
server that does not answer is a finding, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from ...orchestration.connection.portal import Portal
from ...orchestration.connection.redis_client import is_forbidden, refusal_of
from ...orchestration.connection.refusals import refusal_in
from ...orchestration.connection.settings import Settings, redact_url
from ...orchestration.engine.pausing.workflows import Pauses, pauses
from ...orchestration.engine.worker_directory import SeenWorker, refused_writes, seen_workers
from ...orchestration.inspection.long_running import long_running
from ...orchestration.inspection.metrics import unclaimed
from ...orchestration.inspection.run_list import newest_runs
from ...orchestration.model.errors import ConfigurationError, StoreUnavailable, UmbelError
from ...orchestration.store.nodes import connection_to
from ...orchestration.store.pipeline import NO_FUNCTION
from ...orchestration.store.verbs import Store
from ..transport.quarantine import quarantined_of
from .celery_rules import judge_settings
from .libraries import remove_libraries, unused_libraries
from .redis_info import ask_servers
from .redis_rules import Finding, judge_node, judge_server

_KNOWN_PASSWORD = "umbel"
#: Members of an index looked at per shard.
_SAMPLE = 200
#: Seconds after which an unclaimed dispatch is reported.
_OVERDUE_SECONDS = 60.0
#: Seconds after which a running step without a time limit is reported.
_LONG_SECONDS = 600.0
#: Running runs read to find workflows that no worker serves.
_RUNS = 1_000


def examine(settings: Settings, app: Celery, *, is_embedded: bool = False, is_own_app: bool = True) -> list[Finding]:
    """Examine a deployment.

    Args:
        settings: Its settings, with a Redis URL.
        app: The Celery app that its workers use.
        is_embedded: Whether the Redis is umbel's own embedded one.
        is_own_app: Whether umbel made the app, so that its settings need no check.
    """
    findings = [] if is_own_app else list(judge_settings(app.conf))
    findings += _broker(settings, app)
    findings += _known_password(settings)
    portal = Portal("umbel-doctor")
    try:
        try:
            servers = ask_servers(settings.redis_url or "")
        except ResponseError as error:
            if not is_forbidden(error):
                raise
            servers = {}
            findings.append(_unseen(settings))
        judged = (each.at(name) for name in servers for each in judge_server(servers[name], is_private=is_embedded))
        findings += dict.fromkeys(judged)
        lease = settings.lease_seconds
        findings += [
            found.at(name) for name in servers if name for found in judge_node(servers[name], lease_seconds=lease)
        ]
        if any(each.release is not None and not each.release.is_new_enough for each in servers.values()):
            return findings  # a server that is too old would reject the further commands
        portal.call(_examine_state(Store(connection_to(settings.redis_url or "", portal), settings), findings))
    except ConfigurationError as error:
        findings.append(Finding("danger", "deployment", str(error), "Nothing else was examined."))
    except (RedisError, OSError, UmbelError) as error:
        findings.append(_unanswered(settings, error))
    finally:
        portal.close()
    return findings


def _fault(about: str, where: str, error: BaseException, fix: str, so: str = "") -> Finding:
    """A server that does not answer, which `fix` corrects, or that refuses, whose error says what helps."""
    refused = refusal_in(error)
    if refused is None:
        return Finding("danger", about, f"{where} does not answer: {_text_of(error)}.{so}", fix)
    return Finding("danger", about, f"{where} {refused.why}.{so}", f"{refused.remedy[0].upper()}{refused.remedy[1:]}.")


def _unanswered(settings: Settings, error: Exception) -> Finding:
    url = settings.redis_url or ""
    if (refusal := refusal_of(url, error)) is not None:
        return Finding("danger", "deployment", str(refusal), "Nothing else was examined.")
    where = f"The state Redis at {redact_url(url)}"
    return _fault("redis", where, error, "Start it, or correct UMBEL_REDIS_URL.")


def _unseen(settings: Settings) -> Finding:
    return Finding(
        "note",
        "redis",
        f"{redact_url(settings.redis_url or '')} does not let its user ask what it is set to, so whether that may lose "
        "data is not known.",
        "Examine it as a user with +info +config|get, or compare its settings with docs/running-in-production.md.",
    )


def remove_unused_libraries(settings: Settings) -> list[str]:
    """Remove the function libraries that no announced worker uses, and return their names.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    portal = Portal("umbel-doctor")
    try:
        store = Store(connection_to(settings.redis_url or "", portal), settings)
        return portal.call(_remove_unused(store))
    finally:
        portal.close()


async def _remove_unused(store: Store) -> list[str]:
    return await remove_libraries(store, await unused_libraries(store, await seen_workers(store)))


# -- Celery and its broker ---------------------------------------------------------------------------------------------


def _broker(settings: Settings, app: Celery) -> Iterator[Finding]:
    url = settings.broker
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
        quarantined = quarantined_of(settings)
    except NoPermissionError:
        quarantined = {}  # this user may only send and take messages
    except (OperationalError, OSError, RedisError, *app.connection_for_read().connection_errors) as error:
        where, fix = f"The broker at {redact_url(url)}", "Start it, or correct UMBEL_BROKER_URL."
        yield _fault("broker", where, error, fix, " Runs are safe, but do not continue.")
        return
    yield Finding("fine", "broker", f"{redact_url(url)} answers")
    for queue, found in quarantined.items():
        reason = f" The latest: {found.latest.reason}." if found.latest is not None else ""
        kept = f"{settings.broker_prefix}umbel:quarantine:{queue}"
        yield Finding(
            "warning",
            "messages",
            f"Quarantined {_count(found.count, 'malformed message')} of queue {queue!r}.{reason}",
            f"Find out what sends them; they are kept in {kept}. Delete that list when done.",
        )


def _known_password(settings: Settings) -> Iterator[Finding]:
    for url in dict.fromkeys(filter(None, (settings.redis_url, settings.broker_url))):
        if urlsplit(url).password == _KNOWN_PASSWORD:
            yield Finding(
                "warning",
                "password",
                f"The password of {redact_url(url)} is the one that earlier examples contained.",
                "Make one with `openssl rand -hex 16`, and set it in the server and in UMBEL_REDIS_URL.",
            )


# -- the state in Redis ------------------------------------------------------------------------------------------------


async def _examine_state(store: Store, findings: list[Finding]) -> None:
    """Append findings as they are made, so that those from before Redis stopped answering are kept."""
    workers, paused = await seen_workers(store), await pauses(store)
    await _call_function(store)
    refused = await refused_writes(store)
    findings += (
        _workers(workers)
        if refused is None
        else [_read_only(refused, "No worker can announce itself, so which are alive is not known.")]
    )
    if refused is None and (elsewhere := await refused_writes(store, range(1, store.settings.shards))) is not None:
        findings.append(_read_only(elsewhere, "This is another primary than that of shard 0; runs in its shards wait."))
    findings += _paused(paused)
    examined: tuple[AsyncIterator[Finding], ...] = (
        _unserved(store, workers),
        _parked(store),
        _unclaimed(store, workers, paused),
        _long_running(store),
        _refused(store),
        _libraries(store, workers),
    )
    if refused is not None:  # which workers are alive is not known
        examined = (_parked(store), _long_running(store), _refused(store))
    for found in examined:
        findings += [finding async for finding in found]


def _read_only(refused: StoreUnavailable, so: str) -> Finding:
    return _fault("redis", f"The state Redis at {refused.where}", refused, "", f" {so}")


async def _call_function(store: Store) -> None:
    """Call a function that does not exist, so that a server that forbids `FCALL` says so.

    Raises:
        ConfigurationError: It does.
    """
    try:
        await store.command("call a function", "FCALL", "umbel_doctor", 0)
    except ResponseError as error:
        if not str(error).startswith(NO_FUNCTION):
            raise


def _paused(paused: Pauses) -> Iterator[Finding]:
    for option, what, names in (("", "Queue", paused.queues), ("--workflow ", "Workflow", paused.workflows)):
        for name, since in names.items():
            at = datetime.fromtimestamp(since / 1000, UTC)
            text = f"{what} {name!r} is paused since {at:%Y-%m-%d %H:%M} UTC; what waits for it is not executed."
            yield Finding("note", "paused", text, f"Resume it: umbel resume {option}{name}")


def _workers(workers: list[SeenWorker]) -> Iterator[Finding]:
    live = [worker for worker in workers if worker.is_live]
    for worker in live:
        served = ", ".join(worker.workflows) or "no workflow"
        queues = ", ".join([*worker.queues, *(f"{queue} (paused)" for queue in worker.paused)])
        yield Finding("fine", "worker", f"{worker.name} serves {served}, from queues {queues}")
        if worker.detours:
            yield Finding(
                "note",
                "worker",
                f"{worker.name} receives messages through Celery's consumer, which takes more processor time: "
                f"{'; '.join(worker.detours)}.",
                'Nothing is wrong. docs/performance.md, "Direct delivery", says what it costs.',
            )
    for worker in workers:
        if not worker.is_live:
            yield Finding(
                "note",
                "worker",
                f"{worker.name} has been silent for {worker.silent_seconds:.0f} s; it was killed or is disconnected.",
                "Nothing is lost: other workers take over its steps. Start it again if it is needed.",
            )
    if not live:
        yield Finding("warning", "worker", "No live worker: runs wait.", "Start one: umbel worker TARGET")


async def _unserved(store: Store, workers: list[SeenWorker]) -> AsyncIterator[Finding]:
    running = Counter(record.workflow for record in await newest_runs(store, status="running", limit=_RUNS))
    for workflow, number in running.items():
        if not any(worker.serves(workflow) for worker in workers):
            yield Finding(
                "warning",
                "runs",
                f"{_count(number, 'running run')} of {workflow}, which no live worker serves.",
                "Start a worker that loads it: umbel worker TARGET",
            )


async def _refused(store: Store) -> AsyncIterator[Finding]:
    counters = store.keys.in_shard(0, "counters")
    number = int(await store.command("read counters", "HGET", counters, "refused_messages") or 0)
    if number:
        yield Finding(
            "warning",
            "dispatches",
            f"Refused {_count(number, 'message')} that looked like a dispatch of umbel but had another form.",
            "Find out what else writes to the broker, and let only umbel's processes do so. The log says what was "
            "wrong (message_refused).",
        )


async def _libraries(store: Store, workers: list[SeenWorker]) -> AsyncIterator[Finding]:
    unused = await unused_libraries(store, workers)
    if unused:
        yield Finding(
            "note",
            "functions",
            f"{_count(len(unused), 'library', 'libraries')} of functions used by no worker announced here: "
            f"{', '.join(unused)}. They are left from other releases, or belong to another deployment on this Redis.",
            "Remove them: umbel doctor --remove-unused. What is in use is loaded again by itself.",
        )


async def _parked(store: Store) -> AsyncIterator[Finding]:
    keys = [store.keys.in_shard(shard, "parked") for shard in range(store.settings.shards)]
    total = sum(await store.batch("count parked work", *(("ZCARD", key) for key in keys)))
    sample = await store.batch("look at parked work", *(("ZRANGE", key, 0, _SAMPLE - 1) for key in keys))
    names = Counter(_parked_step(member.decode()) for members in sample for member in members)
    if total:
        yield Finding(
            "warning",
            "parked",
            f"Parked {_count(total, 'step')} until a worker has the code: "
            + ", ".join(f"{name} ({number})" for name, number in names.most_common(5))
            + ("" if len(names) <= 5 else ", …"),
            "Start a worker that loads them; it resumes them at once.",
        )


def _parked_step(member: str) -> str:
    workflow, step, *_ = member.split("|")
    return f"{step!r} of {workflow}"


async def _unclaimed(store: Store, workers: list[SeenWorker], paused: Pauses) -> AsyncIterator[Finding]:
    consumed = {queue for worker in workers if worker.is_live for queue in worker.queues}
    for queue, waiting in (await unclaimed(store, sample=_SAMPLE)).items():
        age = f"{waiting.oldest_seconds:.0f} s"
        about = f"Queue {queue!r}: {_count(waiting.number, 'step')} dispatched and not claimed, the oldest for {age}."
        if queue in paused.queues:
            yield Finding("fine", "queue", about)
            continue
        pausing = [worker.name for worker in workers if worker.is_live and queue in worker.paused]
        if queue not in consumed and pausing:
            yield Finding(
                "warning",
                "queue",
                f"{about} It is paused: its consumer was cancelled in {', '.join(pausing)}.",
                f"Resume it: celery control add_consumer {queue}",
            )
        elif queue not in consumed:
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


async def _long_running(store: Store) -> AsyncIterator[Finding]:
    found = await long_running(store, _LONG_SECONDS)
    without_limit = [each for each in found if not each.has_time_limit]
    if without_limit:
        longest = without_limit[0]
        worker, *process = longest.owner.split("|")
        yield Finding(
            "note",
            "steps",
            f"{_count(len(without_limit), 'execution')} without a time limit running for more than "
            f"{_LONG_SECONDS / 60:.0f} minutes. The longest: step {longest.step!r} of run {longest.run_id!r}, for "
            f"{longest.seconds / 60:.0f} minutes, on {worker} (process {':'.join(process[:2])}).",
            "If it hangs, `umbel cancel` its run, or kill that process: the step is executed again. "
            "@step(timeout=…) ends such a step by itself.",
        )


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def _text_of(error: BaseException) -> str:
    return str(error).rstrip(".")
