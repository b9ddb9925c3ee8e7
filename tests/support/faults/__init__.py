"""Fault injection: a proxy, a message meddler, a Redis to kill, failpoints, the soak's chaos monkey."""
