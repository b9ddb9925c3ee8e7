"""A run as a value, and back: what `Context.to_dict` and `run(ctx=…)` stand on.

The JSON form is in `tasks/snapshots`.
Read `take.py` first.
"""
