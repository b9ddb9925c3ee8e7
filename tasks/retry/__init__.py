"""Retry policies: when to try again, how long to wait, when to stop.

Who applies them is `attempt`.
Read `policy.py` first.
"""
