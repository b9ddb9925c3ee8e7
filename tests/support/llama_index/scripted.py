"""A function-calling model that answers from a script: its answer depends on the last message alone.

So an answer is the same in every process and every attempt. Nothing here is specific to umbel.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.llms import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools import ToolSelection
from pydantic import BaseModel

#: Environment variable with a folder for marks. The first call of each mark is held until its process is killed.
HOLD = "HOLD_CALLS"


class Turn(BaseModel):
    """One scripted answer.

    Attributes:
        when: Text that the last message contains.
        say: The text of the answer.
        call: Tools to call, with their arguments.
        hold: The first process that gets this turn waits to be killed.
    """

    when: str
    say: str = ""
    call: list[tuple[str, dict[str, Any]]] = []
    hold: bool = False


async def held(mark: str) -> None:
    """Wait to be killed if a test holds calls and this process is the first to get here."""
    folder = os.environ.get(HOLD)
    if folder is None:
        return
    try:
        with Path(folder, f"held-{mark}").open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    await asyncio.Event().wait()


class ScriptedLLM(FunctionCallingLLM):
    """Answers with the first turn that matches.

    Attributes:
        script: The turns.
        calls_functions: Whether it reports that it calls functions.
        mark: The name under which its calls are held.
    """

    script: list[Turn]
    calls_functions: bool = True
    mark: str = ""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=self.calls_functions, is_chat_model=True, model_name="scripted")

    def _answer(self, messages: Sequence[ChatMessage], tools: Sequence[Any]) -> tuple[Turn, ChatResponse]:
        last = messages[-1].content or ""
        turn = next((turn for turn in self.script if turn.when in last), None)
        if turn is None:
            raise AssertionError(f"the script has nothing for {last!r}")
        names = [tool.metadata.name for tool in tools]
        structured = [name for name in names if name == "Sums"]
        chosen = [(structured[0], {"total": 11})] if structured else turn.call
        calls = [{"id": f"{len(messages)}-{i}", "name": name, "args": args} for i, (name, args) in enumerate(chosen)]
        message = ChatMessage(
            role="assistant", content=turn.say, additional_kwargs={"tool_calls": calls} if calls else {}
        )
        return turn, ChatResponse(message=message, raw={"model": "scripted"})

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._answer(messages, kwargs.get("tools", ()))[1]

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        turn, response = self._answer(messages, kwargs.get("tools", ()))
        if turn.hold:
            await held(self.mark)
        return response

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncGenerator[ChatResponse, None]:
        response = await self.achat(messages, **kwargs)

        async def words() -> AsyncGenerator[ChatResponse, None]:
            said = ""
            for word in (response.message.content or "").split():
                said = f"{said} {word}".strip()
                yield ChatResponse(message=ChatMessage(role="assistant", content=said), delta=word, raw=response.raw)
            yield ChatResponse(message=response.message, delta="", raw=response.raw)

        return words()

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        raise NotImplementedError

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        asked = [ChatMessage(role="user", content=user_msg)] if isinstance(user_msg, str) else [user_msg]
        return {"messages": [*(chat_history or []), *(each for each in asked if each is not None)], "tools": tools}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        calls = response.message.additional_kwargs.get("tool_calls", [])
        return [ToolSelection(tool_id=c["id"], tool_name=c["name"], tool_kwargs=c["args"]) for c in calls]
