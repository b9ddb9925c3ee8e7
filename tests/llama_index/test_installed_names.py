"""`import workflows` served by umbel, in separate processes, because an import cannot be undone."""

from __future__ import annotations

import subprocess
import sys


def printed(program: str) -> str:
    """Return what a program prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, "")
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


def test_a_late_install_is_reported() -> None:
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


SPANS = """
import asyncio, umbel, umbel.llama_index
umbel.llama_index.install()
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from llama_index_instrumentation.span import SimpleSpan
from llama_index_instrumentation.span_handlers import BaseSpanHandler
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from workflows.runtime.types.step_function import WorkflowRunOutputEvent, WorkflowStepOutputEvent

class Spans(BaseSpanHandler[SimpleSpan]):
    def new_span(self, id_, bound_args, instance=None, parent_span_id=None, tags=None, **kwargs):
        parent = (parent_span_id or "").partition("-")[0]
        print("enter", id_.partition("-")[0], type(instance).__name__, parent, tags.get("llamaindex.step.input_event"))
        return SimpleSpan(id_=id_, parent_id=parent_span_id)

    def prepare_to_exit_span(self, id_, bound_args, instance=None, result=None, **kwargs):
        print("exit", id_.partition("-")[0], repr(result))
        return self.open_spans[id_]

    def prepare_to_drop_span(self, id_, bound_args, instance=None, err=None, **kwargs):
        print("drop", id_.partition("-")[0], repr(err))
        return self.open_spans[id_]

class Events(BaseEventHandler):
    def handle(self, event, **kwargs):
        if isinstance(event, WorkflowRunOutputEvent | WorkflowStepOutputEvent):
            print(event.class_name(), event.output, "llamaindex.run_id" in event.tags)

class Middle(Event):
    n: int

class Flow(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> Middle:
        await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
        return Middle(n=1)
    @step
    def plain(self, ev: Middle) -> StopEvent:
        return StopEvent(result=ev.n) if ev.n < 2 else 1 / 0

async def main():
    root = get_dispatcher()
    with umbel.local(in_process=True):
        assert "llama_index_spans" not in Flow().run_arguments()["options"], "nobody listens yet"
        root.add_span_handler(Spans())
        root.add_event_handler(Events())
        handler = Flow().run()
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                await handler.send_event(HumanResponseEvent())
        await handler

asyncio.run(main())
"""


def test_what_listens_to_llama_index_s_instrumentation_gets_a_span_per_start_and_step() -> None:
    assert printed(SPANS).splitlines() == [
        "enter Flow.run Flow  None",
        "exit Flow.run None",
        "enter Flow.ask Flow Flow.run StartEvent",
        "exit Flow.ask None",
        "enter Flow.ask Flow Flow.run StartEvent",
        "step.output Middle(n=1) True",
        "exit Flow.ask Middle(n=1)",
        "enter Flow.plain Flow Flow.run Middle",
        "step.output StopEvent(result=1) True",
        "workflow.output StopEvent(result=1) True",
        "exit Flow.plain StopEvent(result=1)",
    ]
