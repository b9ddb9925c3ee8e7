"""Commands about sessions: the list of them, and one with its runs, its state and the versions of that.

Read `one.py` first.
"""
