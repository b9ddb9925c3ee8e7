"""An embedded Redis server that starts and ends with its owner; what to run on it is in `local` and `cli`.

Read `redis_server.py` first.
"""
