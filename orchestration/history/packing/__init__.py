"""Packing the past of runs: chunks of compressed entries, checkpoints beside them, and whose turn it is to make them.

Not here: what a chunk looks like and how it is read (`store/packed.py`, `store/journal.py`), and how a past is rebuilt
(`history/rebuild.py`). Read `chunks.py` first.
"""
