"""The Celery sources that the asyncio pool depends on are those it was written for."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re

import celery
import pytest

#: Code that is overridden, reproduced or relied on -> the first digits of the SHA-256 of its source.
SOURCES = {
    "celery.app.autoretry:add_autoretry_behaviour": "4a97591ccc3e",
    "celery.app.task:Context.__init__": "c70eae59bc42",
    "celery.app.task:Context._get_custom_headers": "2b0196d4ec67",
    "celery.app.task:Context.update": "2278bfd5d2c8",
    "celery.app.trace:TraceInfo": "a07fc09754c4",
    "celery.app.trace:_install_stack_protection": "3c408e76892e",
    "celery.app.trace:_signal_internal_error": "db70a0045e12",
    "celery.app.trace:build_tracer": "b2945aec38e1",
    "celery.app.trace:fast_trace_task": "52c76aab90e1",
    "celery.app.trace:report_internal_error": "847aa740ebe6",
    "celery.app.trace:task_has_custom": "fca9d49416a0",
    "celery.app.trace:trace_task_ret": "edf3530c917c",
    "celery.apps.worker:on_cold_shutdown": "0283849754eb",
    "celery.backends.base:Backend.mark_as_done": "87fbe4a218b7",
    "celery.backends.base:BaseBackend.process_cleanup": "70f7f997125f",
    "celery.concurrency.base:BasePool": "37bc2b310c4f",
    "celery.concurrency.prefork:TaskPool.on_stop": "ab83bf6652cb",
    "celery.concurrency.prefork:_run_ready_callbacks": "f7b87b484347",
    "celery.loaders.base:BaseLoader.on_process_cleanup": "399415f27a9c",
    "celery.loaders.base:BaseLoader.on_task_init": "4dc601b5666f",
    "celery.utils.threads:Local": "2359fa4eaa08",
    "celery.utils.threads:_LocalStack": "da874df3e07f",
    "celery.worker.components:Pool.create": "1f0dba9f45f3",
    "celery.worker.consumer.consumer:Consumer.call_soon_ack": "39f8579d0762",
    "celery.worker.consumer.consumer:Consumer.cancel_active_requests": "e4d13603d8d8",
    "celery.worker.consumer.consumer:Consumer.create_task_handler": "292c5a681f10",
    "celery.worker.consumer.consumer:Consumer.on_close": "e96d425dce0a",
    "celery.worker.loops:asynloop": "05a53e519988",
    "celery.worker.request:Request.__init__": "efdf47149cde",
    "celery.worker.request:Request.acknowledge": "60dad9ce9c39",
    "celery.worker.request:Request.cancel": "5078dd292fc6",
    "celery.worker.request:Request.execute_using_pool": "7979562da58f",
    "celery.worker.request:Request.on_accepted": "7bd097a863da",
    "celery.worker.request:Request.on_failure": "21736ec661cd",
    "celery.worker.request:Request.on_success": "8d11e320facd",
    "celery.worker.request:Request.on_timeout": "3d26ce896008",
    "celery.worker.request:Request.reject": "08be2378bcc6",
    "celery.worker.request:Request.terminate": "5ee69325b498",
    "celery.worker.request:create_request_cls": "871f30fe1cfe",
    "celery.worker.strategy:default": "7d90575ada5e",
    "celery.worker.worker:WorkController.wait_for_soft_shutdown": "2dda1a44e1f2",
    "kombu.asynchronous.hub:Hub.add_reader": "e2ebad46b5d3",
    "kombu.asynchronous.hub:Hub.create_loop": "bc5b3f9d66b9",
    "kombu.asynchronous.hub:Hub.fire_timers": "9885f6bdc022",
    "kombu.asynchronous.hub:Hub.remove": "bb61e1f6240a",
    "kombu.asynchronous.hub:Hub.reset": "6cd3bde7f6f9",
}


def _digest(name: str) -> str:
    module, _, path = name.partition(":")
    found = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]


def test_the_code_this_rests_on_is_as_it_was_when_this_was_written() -> None:
    changed = {name: _digest(name) for name in SOURCES if _digest(name) != SOURCES[name]}

    assert not changed, "See what changed there, follow it in umbel.workers, then renew the digests in SOURCES."


@pytest.mark.skipif(celery.__version__ != "5.7.0", reason="the lines are those of Celery 5.7.0")
def test_the_lines_of_celery_that_comments_name_are_the_right_ones() -> None:
    expected = {
        "celery/app/autoretry.py:8": "def add_autoretry_behaviour",
        "celery/app/task.py:144": "def _get_custom_headers",
        "celery/app/trace.py:323": "def build_tracer",
        "celery/app/trace.py:880": "if req and not req._protected",
        "celery/apps/worker.py:486": "pool.stop()",
        "celery/utils/threads.py:210": "class _LocalStack",
        "celery/worker/request.py:1003": "def execute_using_pool",
        "celery/worker/request.py:423": "def terminate",
        "celery/worker/request.py:536": "_terminate_on_ack is not None",
        "celery/worker/worker.py:318": "signal_safe",
        "kombu/asynchronous/hub.py:391": "todo = self._pop_ready()",
    }
    sources = "".join(
        inspect.getsource(importlib.import_module(f"umbel.workers.{name}"))
        for name in ("pool.taskpool", "pool.callback_queue", "pool.tracer", "pool.lazy_request", "pool.task_context")
    )
    assert set(re.findall(r"(?:celery|kombu)/[\w/]+\.py:\d+", sources)) == set(expected)
    for place, text in expected.items():
        file, _, number = place.partition(":")
        package = importlib.import_module(file.partition("/")[0])
        path = inspect.getfile(package).replace("__init__.py", file.partition("/")[2])
        with open(path, encoding="utf-8") as lines:
            assert text in lines.readlines()[int(number) - 1], place
