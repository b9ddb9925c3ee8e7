"""An embedded Redis server, started with its owner and ended with it; what to run on it is in `local` and `cli`.

Read `redis_server.py` first.
"""
