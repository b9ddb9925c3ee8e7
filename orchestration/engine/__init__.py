"""The protocol: start, claim, commit, send, finish, retry, and what keeps runs going: leases, sweep, limits, turns.

Scripts are in `store`, decisions in `model`.
Read `protocol.py` first.
"""
