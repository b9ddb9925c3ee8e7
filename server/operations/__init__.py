"""Health, readiness and Prometheus metrics.

Read `routes.py` first.
"""
