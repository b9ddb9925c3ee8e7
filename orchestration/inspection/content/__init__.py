"""The content of runs: the log of their steps, and a search for runs by what their events contain.

Not here: what happened in a run (`run_detail.py`, `work_detail.py` in the parent package). Read `step_logs.py` first.
"""
