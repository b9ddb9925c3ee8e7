"""`umbel.local()`: Redis and worker for a block of code, in this process or beside it.

Read `deployment.py` first.
"""
