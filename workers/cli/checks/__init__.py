"""Commands that examine and change nothing: workflows (`check`, `graph`) and the deployment (`doctor`).

Read `check.py` first.
"""
