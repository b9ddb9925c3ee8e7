"""The Redis side of `ctx.store`: one hash per state, locks, and a local queue in front of them.

Values and paths as users see them are in `tasks/state`.
Read `redis_hash.py` first.
"""
