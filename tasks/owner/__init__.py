"""The process that owns leases: its name, its heartbeat, and which suspect steps it runs at a time.

A lease covers one attempt of a step, see `attempt`.
Read `heartbeat.py` first.
"""
