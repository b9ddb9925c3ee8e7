"""Agents as users write them: `python agents.py SCENARIO…` prints a line of JSON per scenario.

This program is executed by LlamaIndex itself, by `umbel exec --llama-index`, and on workers that have loaded it.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
from pydantic import BaseModel

from support.llama_index.scripted import ScriptedLLM, Turn


class Sums(BaseModel):
    """The class of a structured answer."""

    total: int


async def add(ctx: Context, a: int, b: int) -> int:
    """Add, and count the calls."""
    async with ctx.store.edit_state() as state:
        state["added"] = state.get("added", 0) + 1
    return a + b


def multiply(a: int, b: int) -> int:
    """Multiply."""
    return a * b


def divide(a: int, b: int) -> float:
    """Divide."""
    return a / b


async def ask_first(ctx: Context, what: str) -> str:
    """Do it if a human approves."""
    answer = await ctx.wait_for_event(
        HumanResponseEvent,
        waiter_id="agreement",
        waiter_event=InputRequiredEvent(prefix=f"May I {what}?"),  # type: ignore[call-arg]
        requirements={"user_name": "ada"},
    )
    return f"done: {what}" if answer.response == "yes" else "not allowed"


TWO_TOOLS = [
    Turn(when="compute", say="I use two tools", call=[("add", {"a": 2, "b": 3}), ("multiply", {"a": 2, "b": 3})]),
    Turn(when="5", say="They are 5 and 6.", hold=True),
    Turn(when="6", say="They are 5 and 6.", hold=True),
    Turn(when="what did I ask", say="To compute."),
]

counter = FunctionAgent(name="counter", llm=ScriptedLLM(mark="counter", script=TWO_TOOLS), tools=[add, multiply])

TWO_TURNS = [
    Turn(when="my name is Ada", say="Hello Ada"),
    Turn(when="who am I", say="Ada", hold=True),
]

rememberer = FunctionAgent(
    name="rememberer", llm=ScriptedLLM(mark="rememberer", script=TWO_TURNS), system_prompt="Be kind."
)
lender = FunctionAgent(name="lender", llm=ScriptedLLM(mark="lender", script=TWO_TURNS), system_prompt="Be kind.")
restorer = FunctionAgent(name="restorer", llm=ScriptedLLM(mark="restorer", script=TWO_TURNS), system_prompt="Be kind.")

researcher = FunctionAgent(
    name="researcher",
    description="finds facts",
    llm=ScriptedLLM(
        mark="researcher",
        script=[
            Turn(
                when="write about ships",
                say="I research first",
                call=[("handoff", {"to_agent": "writer", "reason": "facts are there"})],
            )
        ],
    ),
    can_handoff_to=["writer"],
)
writer = FunctionAgent(
    name="writer",
    description="writes",
    llm=ScriptedLLM(
        mark="writer",
        script=[
            Turn(when="handing off", say="Ships float.", hold=True),
            Turn(when="Agent writer is now handling", say="Ships float.", hold=True),
            Turn(when="", say="Ships float.", hold=True),
        ],
    ),
)
office = AgentWorkflow(agents=[researcher, writer], root_agent="researcher", initial_state={"notes": {}})

careful = FunctionAgent(
    name="careful",
    llm=ScriptedLLM(
        mark="careful",
        script=[
            Turn(when="done: delete it", say="It is deleted.", hold=True),
            Turn(when="delete it", say="I ask", call=[("ask_first", {"what": "delete it"})]),
        ],
    ),
    tools=[ask_first],
)

thinker = ReActAgent(
    name="thinker",
    llm=ScriptedLLM(
        mark="thinker",
        calls_functions=False,
        script=[
            Turn(
                when="Observation: 6",
                say="Thought: I can answer without using any more tools.\nAnswer: It is 6.",
                hold=True,
            ),
            Turn(
                when="two times three",
                say='Thought: I need a tool.\nAction: multiply\nAction Input: {"a": 2, "b": 3}',
            ),
        ],
    ),
    tools=[multiply],
)

reporter = FunctionAgent(
    name="reporter",
    llm=ScriptedLLM(
        mark="reporter",
        script=[
            Turn(when="sum up 5 and 6", say="I add", call=[("add", {"a": 5, "b": 6})]),
            Turn(when="11", say="It is 11.", hold=True),
        ],
    ),
    tools=[add],
    output_cls=Sums,
)

endless = FunctionAgent(
    name="endless",
    llm=ScriptedLLM(
        mark="endless", script=[Turn(when="", say="again", call=[("multiply", {"a": 1, "b": 1})], hold=True)]
    ),
    tools=[multiply],
)

stopper = FunctionAgent(
    name="stopper",
    llm=ScriptedLLM(
        mark="stopper",
        script=[
            Turn(when="maximum number of iterations", say="I had to stop.", hold=True),
            Turn(when="", say="again", call=[("multiply", {"a": 1, "b": 1})]),
        ],
    ),
    tools=[multiply],
    early_stopping_method="generate",
)

divider = FunctionAgent(
    name="divider",
    llm=ScriptedLLM(
        mark="divider",
        script=[
            Turn(when="divide", say="I divide", call=[("divide", {"a": 1, "b": 0}), ("unknown", {})]),
            Turn(when="not found", say="That cannot be.", hold=True),
            Turn(when="division by zero", say="That cannot be.", hold=True),
        ],
    ),
    tools=[divide],
)

silent = FunctionAgent(
    name="silent", llm=ScriptedLLM(mark="silent", script=[Turn(when="hi", say="Hello.", hold=True)]), streaming=False
)

keeper = FunctionAgent(
    name="keeper",
    llm=ScriptedLLM(mark="keeper", script=[Turn(when="what is kept", say="A cup.", hold=True)]),
    initial_state={"kept": "a cup"},
)


async def execute(code: str) -> str:
    """Execute code that can call the tools."""
    values: dict[str, Any] = {"multiply": multiply}
    exec(code, values)
    return str(values["result"])


coder = CodeActAgent(
    name="coder",
    llm=ScriptedLLM(
        mark="coder",
        script=[
            Turn(when="two times three", say="<execute>result=multiply(2,3)</execute>"),
            Turn(when="code given:\n\n6", say="It is 6.", hold=True),
        ],
    ),
    tools=[multiply],
    code_execute_fn=execute,
)


async def followed(handler: Any, answer: Callable[[Any, Any], None] = lambda handler, event: None) -> dict[str, Any]:
    """Return what a run has published, and its result or error."""
    events = []
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            answer(handler, event)
        events.append([type(event).__name__, shown(event)])
    try:
        result = await handler
    except Exception as error:
        return {"events": events, "error": f"{type(error).__name__}: {error}"}
    return {
        "events": events,
        "result": str(result),
        "by": result.current_agent_name,
        "tool_calls": [[call.tool_name, call.tool_kwargs, shown_output(call)] for call in result.tool_calls],
        "structured": result.structured_response,
    }


def shown(event: Any) -> Any:
    """Return the part of an event that is compared."""
    if type(event).__name__ in ("ToolCall", "ToolCallResult"):
        return [event.tool_name, event.tool_kwargs, shown_output(event)]
    for name in ("delta", "response", "input", "prefix", "output"):
        value = event.get(name) if name == "prefix" else getattr(event, name, None)
        if value is not None:
            return [str(each) for each in value] if isinstance(value, list) else str(value)
    return None


def shown_output(call: Any) -> Any:
    """Return the output of a tool as the agent's users see it."""
    output = getattr(call, "tool_output", None)
    return None if output is None else [type(output).__name__, output.content, output.raw_output, output.is_error]


async def remembered(ctx: Context) -> list[str]:
    """Return the conversation as the context keeps it."""
    memory = await ctx.store.get("memory")
    messages: list[ChatMessage] = await memory.aget()
    return [f"{message.role.value}: {message.content}" for message in messages]


async def two_tools_at_once() -> Any:
    ctx = Context(counter)
    report = await followed(counter.run("please compute", ctx=ctx))
    return report | {"memory": await remembered(ctx), "added": await ctx.store.get("added")}


async def a_second_turn() -> Any:
    ctx = Context(rememberer)
    await followed(rememberer.run(user_msg="my name is Ada", ctx=ctx))
    report = await followed(rememberer.run(user_msg="who am I", ctx=ctx))
    return report | {"memory": await remembered(ctx)}


async def a_memory_of_the_caller() -> Any:
    kept = SimpleChatStore()
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000, chat_store=kept, chat_store_key="ada")
    await followed(lender.run(user_msg="my name is Ada", memory=memory))
    report = await followed(lender.run(user_msg="who am I", memory=memory))
    return report | {"memory": [f"{each.role.value}: {each.content}" for each in kept.get_messages("ada")]}


async def a_turn_after_a_snapshot() -> Any:
    ctx = Context(restorer)
    await followed(restorer.run(user_msg="my name is Ada", ctx=ctx))
    restored = Context.from_dict(restorer, json.loads(json.dumps(ctx.to_dict())))
    report = await followed(restorer.run(user_msg="who am I", ctx=restored))
    return report | {"memory": await remembered(restored)}


async def a_handoff() -> Any:
    ctx = Context(office)
    report = await followed(office.run(user_msg="write about ships", ctx=ctx))
    return report | {"memory": await remembered(ctx), "current": await ctx.store.get("current_agent_name")}


async def a_human_in_a_tool() -> Any:
    def agree(handler: Any, event: Any) -> None:
        handler.ctx.send_event(HumanResponseEvent(response="yes", user_name="bob"))  # type: ignore[call-arg]
        handler.ctx.send_event(HumanResponseEvent(response="yes", user_name="ada"))  # type: ignore[call-arg]

    return await followed(careful.run(user_msg="delete it"), agree)


async def reasoning_and_acting() -> Any:
    ctx = Context(thinker)
    report = await followed(thinker.run(user_msg="two times three", ctx=ctx))
    return report | {"memory": await remembered(ctx)}


async def writing_code() -> Any:
    ctx = Context(coder)
    report = await followed(coder.run(user_msg="two times three", ctx=ctx))
    return report | {"memory": await remembered(ctx)}


async def structured_output() -> Any:
    return await followed(reporter.run(user_msg="sum up 5 and 6"))


async def too_many_iterations() -> Any:
    return await followed(endless.run(user_msg="go on", max_iterations=3))


async def early_stopping() -> Any:
    return await followed(stopper.run(user_msg="go on", max_iterations=3))


async def errors_of_tools() -> Any:
    ctx = Context(divider)
    report = await followed(divider.run(user_msg="divide", ctx=ctx))
    return report | {"memory": await remembered(ctx)}


async def no_streaming() -> Any:
    return await followed(silent.run(user_msg="hi"))


async def state_in_the_prompt() -> Any:
    ctx = Context(keeper)
    report = await followed(keeper.run(user_msg="what is kept", ctx=ctx))
    return report | {"state": await ctx.store.get("state")}


SCENARIOS: dict[str, Callable[[], Awaitable[Any]]] = {
    scenario.__name__: scenario
    for scenario in (
        two_tools_at_once,
        a_second_turn,
        a_memory_of_the_caller,
        a_turn_after_a_snapshot,
        a_handoff,
        a_human_in_a_tool,
        reasoning_and_acting,
        writing_code,
        structured_output,
        too_many_iterations,
        early_stopping,
        errors_of_tools,
        no_streaming,
        state_in_the_prompt,
    )
}


async def main(names: list[str]) -> None:
    """Run scenarios concurrently."""

    async def report(name: str) -> None:
        try:
            found = await SCENARIOS[name]()
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps({name: found}), flush=True)

    await asyncio.gather(*map(report, names))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or list(SCENARIOS)))
