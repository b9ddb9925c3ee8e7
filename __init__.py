"""umbel: event-driven workflows on Celery."""
