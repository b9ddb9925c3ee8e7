"""Commands about workflows (`check`, `graph`), the deployment (`doctor`, `ping`, `pause`, `resume`) and the shell.

Read `check.py` first.
"""
