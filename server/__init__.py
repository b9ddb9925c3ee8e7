"""Workflows over HTTP: the protocol of LlamaIndex' workflow server, over the deployment's shared Redis.

Needs the extra: `pip install 'umbel[server]'`.
"""

from .event_stream import sse_events
from .guard import Principal
from .server import WorkflowServer

__all__ = ["Principal", "WorkflowServer", "sse_events"]
