"""Workflows over HTTP: the protocol of LlamaIndex's workflow server, on the deployment's shared Redis.

Needs the extra: `pip install 'umbel[server]'`.
"""

try:
    import prometheus_client as _prometheus
    import starlette as _starlette
    import uvicorn as _uvicorn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"umbel.server needs {error.name}, which is not installed. Install it with: pip install 'umbel[server]'",
        name=error.name,
    ) from error

from .http.event_stream import sse_events
from .http.guard import Principal
from .server import WorkflowServer

__all__ = ["Principal", "WorkflowServer", "sse_events"]

del _prometheus, _starlette, _uvicorn
