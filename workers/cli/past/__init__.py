"""Commands on the past of runs: looking at it, and going on from a point of it.

Read `looking.py` first.
"""
