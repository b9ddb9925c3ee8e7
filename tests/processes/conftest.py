"""One Redis and one watchdog for all tests with worker processes; deployments are kept apart by key prefix."""

from deployment_fixtures import deploy, deploy_for_module, pytest_runtest_makereport, redis_url, watchdog

__all__ = ["deploy", "deploy_for_module", "pytest_runtest_makereport", "redis_url", "watchdog"]
