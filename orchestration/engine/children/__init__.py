"""Child runs: what a change of one run requires of another run, which may be in another shard.

Not here: how a step starts them (`tasks/context`). Read `outbox.py` first.
"""
