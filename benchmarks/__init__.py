"""Benchmarks of umbel and plain Celery, measured on this machine in one run. See `run.py`."""
