"""`Resource` and `ResourceConfig`: what steps receive besides events, created once and shared.

Read `resource.py` first.
"""
