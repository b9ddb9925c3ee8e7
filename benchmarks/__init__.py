"""Measurements of umbel beside plain Celery, on this machine, in one run. See `run.py`."""
