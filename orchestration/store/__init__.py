"""The one door to the runs in Redis: scripts and their Lua, requests in groups, and what Redis answers.

Settings, keys and clients are in `connection`; what follows from an answer is decided in `engine`.
Read `verbs.py` first.
"""
