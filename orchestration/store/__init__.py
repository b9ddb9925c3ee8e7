"""The only access to the runs in Redis: scripts and their Lua, grouped requests, and Redis's replies.

Settings, keys and clients are in `connection`; what follows from a reply is decided in `engine`.
Read `verbs.py` first.
"""
