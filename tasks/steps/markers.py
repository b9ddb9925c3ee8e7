"""Empty classes by which a step's signature is read, so that reading it imports neither contexts nor resources."""

from __future__ import annotations


class StepContextMarker:
    """What `Context` derives from: a step's parameter annotated with such a class receives the step's context."""


class ResourceMarker:
    """What resources derive from: in `Annotated[T, marker]` an instance says that the parameter is injected."""
