"""Continuing from a point of the past, as a new run or in place, and what a fork keeps of its origin.

Not here: how the past is rebuilt (the parent package). Read `going_on.py` first.
"""
