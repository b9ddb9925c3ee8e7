"""Event classes and how events, values and exceptions become JSON and come back.

Envelopes, the stored form, are in `orchestration/model`.
Read `event.py` first.
"""
