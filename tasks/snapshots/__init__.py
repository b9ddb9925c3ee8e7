"""`Context.to_dict` and back: the JSON shape of every version.

What a snapshot holds is in `orchestration/snapshots`.
Read `shape.py` first.
"""
