"""Event classes and how events and exceptions become JSON and come back.

Values in general are in `tasks/values`; envelopes, the stored form, in `orchestration/model`.
Read `event.py` first.
"""
