"""A run as a value, and back: the base of `Context.to_dict` and `run(ctx=…)`.

The JSON form is in `tasks/snapshots`.
Read `take.py` first.
"""
