"""Workers of today on a Redis of their own."""

from deployment_fixtures import deploy, pytest_runtest_makereport, redis_url, watchdog

__all__ = ["deploy", "pytest_runtest_makereport", "redis_url", "watchdog"]
