"""Which deployment a command works on: a configured Redis, the one of an app, or the embedded one of a state folder.

Commands that only read need `options.py` and `existing.py`, which import neither Celery nor `tasks`.
Read `existing.py` first.
"""
