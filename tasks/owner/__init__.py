"""The process that owns leases: its name, its heartbeat, and which suspect steps it runs at a time.

What a lease covers, one attempt of a step, is in `attempt`.
Read `heartbeat.py` first.
"""
