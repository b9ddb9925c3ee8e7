"""Shifts the clock of a process by `SKEW_SECONDS` if it is on its import path: Python imports it at startup."""

import os
import time

_SKEW_SECONDS = float(os.environ["SKEW_SECONDS"])
_real_time, _real_time_ns = time.time, time.time_ns

time.time = lambda: _real_time() + _SKEW_SECONDS
time.time_ns = lambda: _real_time_ns() + int(_SKEW_SECONDS * 1e9)
