"""Commands about runs that exist: list, show, send, cancel, retry; one file per command.

Read `show.py` first.
"""
