"""What is wrong with a deployment, or may become so: the checks behind `umbel doctor` and a worker's start.

Read `examine.py` first.
"""
