"""Published events of a run: the log, live pub/sub, and readers that combine both.

Events are published by the commit, see `store/lua`.
Read `reader.py` first.
"""
