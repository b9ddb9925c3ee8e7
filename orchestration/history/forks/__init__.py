"""Going on from a point of the past: as another run, or in place; and what a fork keeps of its origin.

Not here: how the past is rebuilt (the room above). Read `going_on.py` first.
"""
