"""umbel in a Celery app: settings, what it adds to a worker, reports of continued steps, delivery to itself.

The pool and the transport have their own rooms.
Read `app.py` first.
"""
