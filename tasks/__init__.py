"""What a user writes and a worker executes: events, steps, workflows, their context, and the Celery task of a step."""
