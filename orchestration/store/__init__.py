"""The one door to Redis: settings, key names, connections, Lua scripts and what they answer.

What follows from an answer is decided in `engine`.
Read `keys.py` first.
"""
