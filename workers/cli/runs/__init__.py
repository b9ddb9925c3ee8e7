"""Commands about existing runs, such as list, show, send, cancel and retry; one file per command.

Read `show.py` first.
"""
