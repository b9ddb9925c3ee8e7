"""Retry policies: when to try again, how long to wait, when to stop.

`attempt` applies them.
Read `policy.py` first.
"""
