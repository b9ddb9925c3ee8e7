"""A Redis server of one's own, started and ended with its owner.

Read `redis_server.py` first.
"""
