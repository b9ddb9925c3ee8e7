"""Celery messages that say "there is work": made, sent, and refused when malformed.

Read `dispatcher.py` first.
"""
