"""What is in runs: the log of their steps, and runs by what their events contain.

Not here: what happened in a run (`run_detail.py`, `work_detail.py` above). Begin with `step_logs.py`.
"""
