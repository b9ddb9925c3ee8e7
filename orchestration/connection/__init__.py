"""Where Redis is and how a process talks to it: settings, key names, clients, and the loop thread that awaits replies.

What is asked of Redis is in `store`.
Read `settings.py` and `keys.py` first.
"""
