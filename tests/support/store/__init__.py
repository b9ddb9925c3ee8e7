"""The store without Celery: fixtures, driven runs, readers, states."""
