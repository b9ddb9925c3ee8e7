"""Commands on the past of runs: showing it, replaying it, and continuing from a point of it.

Read `looking.py` first.
"""
