"""Packing the history of runs: chunks of compressed entries, and checkpoints beside them.

Not here: which runs are packed when (`history/packer.py`), the format of a chunk (`store/packed.py`,
`store/journal.py`), and how a past is rebuilt (`history/rebuild.py`). Read `chunks.py` first.
"""
