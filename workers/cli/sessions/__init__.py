"""Commands about sessions: the list, and one session with its runs, its state and the versions of its state.

Read `one.py` first.
"""
