"""Sessions by name: their runs and their current state. `lua/lib/turns.lua` makes the runs of a session take turns.

`engine` contains how a session's run is started and what follows from its end.
Read `names.py` first.
"""
