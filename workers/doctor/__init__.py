"""What is wrong with a deployment, or would be: the checks behind `umbel doctor` and the start-up warnings.

Read `examine.py` first.
"""
