"""`umbel.local()`: Redis and workers for a block of code. The Redis is in `embedded`, the commands are in `cli`.

Read `deployment.py` first.
"""
