"""Logging of umbel's own workers: the root logger of an application that has configured it is not touched."""

from __future__ import annotations

import logging
from typing import Any

from celery.app.log import Logging

#: Whose records a worker's log consists of; a log level of the worker is theirs.
_OURS = ("celery", "umbel")


class WorkerLog(Logging):  # type: ignore[misc]  # Celery is untyped
    """Sets up a worker's log.

    Celery gives the root logger the worker's level even where the application has set up handlers and a level of its
    own (`worker_hijack_root_logger` is about handlers only). Here that level is only for the loggers of Celery and
    umbel then. A root logger without handlers is set up as Celery does it.
    """

    def _configure_logger(self, logger: Any, logfile: Any, loglevel: Any, *options: Any, **more: Any) -> None:
        if logger is logging.getLogger() and self._has_handler(logger):
            for name in _OURS:
                logging.getLogger(name).setLevel(loglevel)
        else:
            super()._configure_logger(logger, logfile, loglevel, *options, **more)
