"""Programs that tests start as processes: Celery apps, servers and clients."""
