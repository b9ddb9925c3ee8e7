"""The past of a run: rebuilt from its journal, compared, looked at, taken up again.

Here is everything that works with past states; writing the journal is the store's. Read `rebuild.py` first.
"""
