"""One attempt of one step: from the Celery message to the commit.

Scripts are in `orchestration/store`, messages in `messages`.
Read `step_task.py` first.
"""
