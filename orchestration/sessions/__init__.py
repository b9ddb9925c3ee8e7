"""Sessions by name: which runs are theirs, and what they are at. Runs of a session take turns in `lua/lib/turns.lua`.

How a session's run is started and what follows from its end is in `engine`.
Read `names.py` first.
"""
