"""OpenTelemetry for umbel: `umbel.telemetry.install()`. Needs the extra `otel`."""

from umbel.tasks.telemetry.spans import install

__all__ = ["install"]
