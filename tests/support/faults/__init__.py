"""What breaks things on purpose: a proxy, a meddler with messages, a Redis to kill, failpoints, the soak's monkey."""
