"""`Resource` and `ResourceConfig`: what steps are given besides events, made once and shared.

Read `resource.py` first.
"""
