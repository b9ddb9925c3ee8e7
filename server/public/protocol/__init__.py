"""`umbel.protocol`: the shapes that travel between a server and its clients."""

from umbel.server.http.protocol import (
    CancelHandlerResponse,
    EventEnvelopeWithMetadata,
    HandlerData,
    HandlersListResponse,
    HealthResponse,
    SendEventResponse,
    Status,
    WorkflowEventsListResponse,
    WorkflowGraphResponse,
    WorkflowSchemaResponse,
    WorkflowsListResponse,
    is_status_completed,
)

__all__ = [
    "CancelHandlerResponse",
    "EventEnvelopeWithMetadata",
    "HandlerData",
    "HandlersListResponse",
    "HealthResponse",
    "SendEventResponse",
    "Status",
    "WorkflowEventsListResponse",
    "WorkflowGraphResponse",
    "WorkflowSchemaResponse",
    "WorkflowsListResponse",
    "is_status_completed",
]
