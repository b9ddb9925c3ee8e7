"""The context of a step or a caller, and its implementations: before a run, inside a step, and outside a run.

Read `ctx.py` first.
"""
