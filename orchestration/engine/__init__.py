"""The protocol that keeps runs going: leases, sweep, concurrency limits, turns in sessions, the worker directory.

Scripts and keys are in `store`, decisions in `model`.
Read `leases.py` first.
"""
