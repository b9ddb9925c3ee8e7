"""Maps modules of LlamaIndex Workflows to umbel's, and adds the names that umbel's do not have."""

from __future__ import annotations

from typing import Any

from ..context.ctx import Context
from ..context.waits import Waits
from ..steps.decorators import catch_error, step
from . import signatures
from .workflow import LlamaIndexWorkflow, WorkflowMeta

_TOP = {"Context": Context, "Workflow": LlamaIndexWorkflow, "catch_error": catch_error, "step": step}
_QUALIFIED_NAMES = {
    "get_qualified_name": signatures.get_qualified_name,
    "import_module_from_qualified_name": signatures.import_module_from_qualified_name,
}
_SIGNATURES = {
    name: getattr(signatures, name)
    for name in (
        "BUSY_WAIT_DELAY",
        "StepSignatureSpec",
        "_get_param_types",
        "_get_return_types",
        "get_steps_from_class",
        "get_steps_from_instance",
        "inspect_signature",
        "is_free_function",
        "validate_step_signature",
    )
}

#: By module name below the root: the umbel module that provides its names, and names added or replaced.
MODULES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "": (None, _TOP),
    "collect": ("collect", {}),
    "context": ("context", {}),
    "context.context": ("context.context", {}),
    "context.serializers": ("context.serializers", {}),
    "context.state_store": ("context.state_store", {}),
    "context.utils": (None, _QUALIFIED_NAMES),
    "decorators": ("decorators", {}),
    "errors": ("errors", {}),
    "events": ("events", {}),
    "handler": ("handler", {}),
    "plugins": ("plugins", {}),
    "plugins.basic": ("plugins.basic", {}),
    "protocol": ("protocol", {}),
    "representation": ("representation", {}),
    "resource": ("resource", {}),
    "retry_policy": ("retry_policy", {}),
    "runtime": (None, {}),
    "runtime.types": (None, {}),
    "runtime.types.results": (None, {"WaitingForEvent": Waits}),
    "runtime.types.step_function": ("tasks.llama_index.span_events", {}),
    "testing": ("testing", {}),
    "types": ("types", {}),
    "utils": (None, _SIGNATURES),
    "workflow": ("workflow", {"Workflow": LlamaIndexWorkflow, "WorkflowMeta": WorkflowMeta}),
}
