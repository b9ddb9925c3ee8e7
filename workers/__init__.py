"""What users start: the Celery app, the worker, local deployments, the embedded Redis and the command line."""
