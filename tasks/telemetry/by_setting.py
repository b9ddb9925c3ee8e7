"""Tracing that is switched on by the setting UMBEL_OTEL."""

from __future__ import annotations

from ...orchestration.model.errors import ConfigurationError
from ..context.tracing import tracing


def trace_by_setting() -> None:
    """Call `umbel.telemetry.install()`, unless something already traces in this process.

    Raises:
        ConfigurationError: The extra is not installed.
    """
    if tracing() is not None:
        return
    try:
        from .spans import install  # needs an extra
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ConfigurationError(
            "UMBEL_OTEL is set, but OpenTelemetry is not installed. Install it with: pip install 'umbel[otel]'"
        ) from missing
    install()
