"""Pausing for the whole deployment: queues, from which workers then take no messages, and workflows.

How workers apply it is in `workers/celery_app`. Read `workflows.py` first.
"""
