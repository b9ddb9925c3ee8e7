"""`import workflows` answered by umbel, in processes of their own: what is imported cannot be taken back."""

from __future__ import annotations

import subprocess
import sys


def printed(program: str) -> str:
    """What a program prints."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_both_names_of_the_package_are_umbels_modules() -> None:
    program = """
import umbel, umbel.llama_index
umbel.llama_index.install()
umbel.llama_index.install()
import workflows, workflows.events, llama_agents.workflows.events
from llama_index.core.workflow import Workflow, Event
print(issubclass(Workflow, umbel.Workflow), Event is umbel.Event is workflows.events.Event)
print(llama_agents.workflows.events.StopEvent is umbel.StopEvent)
import llama_agents.client
"""
    assert printed(program) == "True True\nTrue"


def test_it_says_when_it_comes_too_late() -> None:
    program = """
import workflows, umbel.llama_index
try:
    umbel.llama_index.install()
except umbel.ConfigurationError as error:
    print(error)
print(workflows.Workflow.__module__)
"""
    message, module = printed(program).splitlines()
    assert message.startswith("umbel.llama_index.install() comes too late: workflows is imported already")
    assert module == "workflows.workflow"


def test_a_module_that_only_the_other_package_has_is_not_found() -> None:
    program = """
import umbel.llama_index
umbel.llama_index.install()
try:
    import workflows.runtime.verbose
except ModuleNotFoundError as error:
    print(error)
"""
    assert printed(program).startswith("No module named 'workflows.runtime.verbose': umbel answers for workflows")


def test_agents_of_one_class_have_names_of_their_own() -> None:
    program = """
import umbel.llama_index
umbel.llama_index.install()
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.llms.mock import MockFunctionCallingLLM
agents = [FunctionAgent(name=n, description=n, llm=MockFunctionCallingLLM()) for n in ("v1.5", "b")]
for each in (*agents, AgentWorkflow(agents=agents, root_agent="b")):
    print(each.workflow_name.rpartition("core.agent.")[2])
"""
    assert printed(program).splitlines() == [
        "workflow.function_agent.FunctionAgent:v1.5",
        "workflow.function_agent.FunctionAgent:b",
        "workflow.multi_agent_workflow.AgentWorkflow:b",
    ]
