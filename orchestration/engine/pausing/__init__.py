"""What is paused for the whole deployment: queues, which workers then take nothing from, and workflows.

How workers follow is in `workers/celery_app`. Read `workflows.py` first.
"""
