"""The store without Celery: fixtures, driven runs, readers and states."""
