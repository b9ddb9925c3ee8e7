"""Whether the settings of a user's own Celery app suit umbel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .redis_rules import Finding


def breaking_settings(conf: Any) -> Iterator[tuple[str, str]]:
    """Settings that make umbel unusable, each with its fix."""
    if conf.task_always_eager:
        yield "task_always_eager executes tasks in the caller, past broker and leases", "set it to False"
    if not {"json", "application/json"} & set(conf.accept_content or ()):
        yield "accept_content lacks 'json', the format of umbel's messages", "add it"
    if conf.task_protocol == 1:
        yield "task_protocol 1 has no message headers", "use 2"


def _surprising_settings(conf: Any) -> Iterator[tuple[str, str]]:
    if conf.task_time_limit or conf.task_soft_time_limit:
        yield (
            "task_time_limit and task_soft_time_limit end steps without umbel knowing, which counts as a lost worker",
            "use @step(timeout=…) for umbel's steps, and task_annotations for the limits of your own tasks",
        )
    if (conf.worker_prefetch_multiplier or 0) != 1:
        yield (
            f"worker_prefetch_multiplier is {conf.worker_prefetch_multiplier}: a worker keeps steps from idle ones",
            "set it to 1",
        )
    url = conf.broker_read_url or conf.broker_url
    if isinstance(url, str) and url.startswith("rediss://") and not conf.broker_use_ssl and "ssl_" not in url:
        yield (
            "Celery does not verify the certificate of a rediss:// broker by default",
            "set broker_use_ssl = {'ssl_cert_reqs': ssl.CERT_REQUIRED}, or add ?ssl_cert_reqs=required to the URL",
        )
    if conf.task_default_rate_limit:
        yield (
            "task_default_rate_limit holds umbel's steps back as well",
            "use task_annotations for the tasks that it is meant for",
        )


def judge_settings(conf: Any) -> Iterator[Finding]:
    """Settings that break umbel, and settings with surprising effects."""
    for text, fix in breaking_settings(conf):
        yield Finding("danger", "celery", f"{text}.", f"{fix[0].upper()}{fix[1:]}.")
    for text, fix in _surprising_settings(conf):
        yield Finding("warning", "celery", f"{text}.", f"{fix[0].upper()}{fix[1:]}.")
