"""Cancelling single steps of a running run, and expiring joins that did not become complete in time.

Not here: the end of a whole run (`Engine.finish`). Read `step_cancels.py` first.
"""
