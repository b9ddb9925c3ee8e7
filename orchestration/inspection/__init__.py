"""Views for people: run list, run detail, timeline, metrics, failed runs and parked work.

Nothing here changes a run.
Read `run_list.py` first.
"""
