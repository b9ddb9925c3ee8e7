"""umbel in a Celery app: settings, boot steps of the worker, reports of continued steps, direct and self-delivery.

The pool and the transport are packages of their own.
Read `app.py` first.
"""
