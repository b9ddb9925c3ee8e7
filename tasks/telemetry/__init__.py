"""OpenTelemetry: spans and metrics of runs. Needs the extra `otel`; imported by `umbel.telemetry` only.

Read `spans.py`; where it is called from is in `tasks/context/tracing.py`.
"""
