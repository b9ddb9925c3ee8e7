"""One file per command of `umbel`, imported when it is called.

Read `run.py` first.
"""
