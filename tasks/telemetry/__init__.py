"""OpenTelemetry: spans and metrics of runs. Needs the extra `otel`; imported by `umbel.telemetry` only.

Read `spans.py`; its callers use `tasks/context/tracing.py`.
"""
