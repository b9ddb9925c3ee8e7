"""The context a step or caller is given, and what stands behind it inside, before and beside a run.

Read `ctx.py` first.
"""
