"""Child runs: what follows from one run in another one, whose shard is another.

Not here: how a step asks for them (`tasks/context`). Read `outbox.py` first.
"""
