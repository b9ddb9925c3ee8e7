"""What `umbel serve` serves: the workflows of its targets, or a `WorkflowServer` that a target defines."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from ...server import WorkflowServer
from ...tasks.client.workflow import Workflow
from ...tasks.events.event import Event, HumanResponseEvent, event_name
from ...tasks.llama_index.workflow import agent_name
from ..local.deployment import target_of
from .targets import TargetError, build, load_module, load_targets


@dataclass(frozen=True, slots=True)
class LoadedServer:
    """A server with its workflows.

    Attributes:
        server: The server.
        worker_targets: The targets a worker must load for it.
        is_own: Whether a target defines the server, with its own options.
    """

    server: WorkflowServer
    worker_targets: list[str]
    is_own: bool


def load_server(texts: Sequence[str], make: Callable[[], WorkflowServer]) -> LoadedServer:
    """Load targets and make a server for them.

    Each workflow is served under the last part of its name, or the full name if two have the same last part; an agent
    of LlamaIndex under the agent's name. Clients may send the events of its steps, all others that its module
    defines or imports, and a `HumanResponseEvent`.

    Args:
        texts: Targets; one of them may be a module that defines a `WorkflowServer`, or `module:name` of one.
        make: Makes a server if no target defines one.

    Raises:
        TargetError: A target cannot be loaded or has nothing to serve, or several servers are defined.
        WorkflowValidationError: A workflow cannot be built; the message says how to register it.
    """
    own: dict[int, WorkflowServer] = {}
    others: list[str] = []
    for text in texts:
        target, module = load_module(text)
        found = _servers_in(module, target.name)
        own.update((id(server), server) for server in found)
        if not found:
            others.append(text)
    if len(own) > 1:
        raise TargetError(
            f"{len(own)} servers are defined in {', '.join(map(repr, texts))}. Choose one, as module:name."
        )
    for server in own.values():
        served = list(server.get_workflows().values())
        if not served and not others:
            raise TargetError(f"The server in {texts[0]!r} has no workflows. Add some with add_workflow(name, flow).")
        worker_targets = [*others, *dict.fromkeys(target_of(workflow) for workflow in served)]
        _add(server, [build(each) for each in load_targets(others)])
        return LoadedServer(server, worker_targets, is_own=True)
    server = make()
    _add(server, [build(each) for each in load_targets(others)])
    return LoadedServer(server, others, is_own=False)


def _servers_in(module: ModuleType, name: str | None) -> list[WorkflowServer]:
    if name is not None:
        found = getattr(module, name, None)
        return [found] if isinstance(found, WorkflowServer) else []
    return list({id(each): each for each in vars(module).values() if isinstance(each, WorkflowServer)}.values())


def _add(server: WorkflowServer, workflows: Sequence[Workflow]) -> None:
    short = Counter(map(_short_name, workflows))
    for workflow in workflows:
        name = _short_name(workflow)
        server.add_workflow(
            name if short[name] == 1 else workflow.workflow_name, workflow, additional_events=_events_beside(workflow)
        )


def _short_name(workflow: Workflow) -> str:
    return agent_name(workflow) or type(workflow).__name__


def _events_beside(workflow: Workflow) -> list[type[Event]]:
    """Events that steps may wait for although no signature has them: those that the workflow's module defines or
    imports, without umbel's own, and the general answer."""
    namespace = vars(sys.modules[type(workflow).__module__])
    named = [each for each in namespace.values() if isinstance(each, type) and issubclass(each, Event)]
    own = [each for each in dict.fromkeys(named) if not event_name(each).startswith("umbel.")]
    return [*own, HumanResponseEvent]
