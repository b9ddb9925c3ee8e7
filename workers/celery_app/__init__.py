"""The Celery app: settings, boot steps, tasks that a worker went on with, delivery to itself.

The pool and the transport have rooms of their own.
Read `app.py` first.
"""
