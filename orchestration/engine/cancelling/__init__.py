"""Cancelling single steps of a run that goes on.

Not here: the end of a whole run (`Engine.finish`). Read `step_cancels.py` first.
"""
