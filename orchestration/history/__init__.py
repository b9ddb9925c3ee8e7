"""A run's past: rebuilding it from the journal, comparing it with the live run, forking and rewinding.

The store writes the journal; this package reads and packs it. Read `rebuild.py` first.
"""
