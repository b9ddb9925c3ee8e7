"""Logging of umbel's own workers, which leaves a root logger alone that the application has configured."""

from __future__ import annotations

import logging
from typing import Any

from celery.app.log import Logging

#: The loggers whose records make up a worker's log, and to which its log level applies.
_OURS = ("celery", "umbel")


class WorkerLog(Logging):  # type: ignore[misc]  # Celery is untyped
    """Sets up a worker's log.

    Celery gives the root logger the worker's level even if the application has set up its own handlers and level
    (`worker_hijack_root_logger` is about handlers only). Here, the level then applies only to the loggers of Celery
    and umbel. A root logger without handlers is set up as Celery does it.
    """

    def _configure_logger(self, logger: Any, logfile: Any, loglevel: Any, *options: Any, **more: Any) -> None:
        if logger is logging.getLogger() and self._has_handler(logger):
            for name in _OURS:
                logging.getLogger(name).setLevel(loglevel)
        else:
            super()._configure_logger(logger, logfile, loglevel, *options, **more)
