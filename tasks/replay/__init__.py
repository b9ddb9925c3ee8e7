"""Executes recorded attempts of steps again with today's code and compares the result. Writes nothing to Redis.

Reading the record is in `orchestration/history`. Read `replaying.py` first.
"""
