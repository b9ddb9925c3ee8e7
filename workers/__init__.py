"""What one starts: Celery app, worker, transport, everything embedded, and the command line."""
