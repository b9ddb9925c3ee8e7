"""`ctx.store`: typed state, paths, edits; in Redis or in memory.

The Redis hash behind it is in `orchestration/state`.
Read `store.py` first.
"""
