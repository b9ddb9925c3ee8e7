"""Pure values: envelopes, plans, work items, commands, and `decide`, which turns an outcome into commands.

No I/O, clock or randomness; nothing here imports another package of umbel.
Read `envelope.py` first.
"""
