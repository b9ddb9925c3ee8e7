"""Recorded attempts of steps, done again with today's code and compared with the record. Nothing is written to Redis.

Reading the record is in `orchestration/history`. Read `replaying.py` first.
"""
