"""`umbel.protocol`: the data that a server and its clients exchange."""

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
