"""Three steps that report progress; the reader sees every event as it is written, not at the end.

$ umbel run examples/streaming.py topic=rain
$ python examples/streaming.py
"""

import asyncio
import random

import umbel
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Outline(Event):
    lines: list[str]


class Draft(Event):
    text: str


class Progress(Event):
    msg: str


class Word(Event):
    word: str


class Poet(Workflow):
    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Outline:
        ctx.write_event_to_stream(Progress(msg=f"planning a poem about {ev.topic}"))
        await asyncio.sleep(0.2)
        return Outline(lines=[f"the {ev.topic} came in the night", "and nobody was awake", "to say what it was like"])

    @step
    async def write(self, ctx: Context, ev: Outline) -> Draft:
        ctx.write_event_to_stream(Progress(msg=f"writing {len(ev.lines)} lines"))
        for line in ev.lines:
            for word in line.split():
                await asyncio.sleep(random.uniform(0.02, 0.1))  # stands for the latency of a language model
                ctx.write_event_to_stream(Word(word=word))
        return Draft(text="\n".join(ev.lines))

    @step
    async def polish(self, ctx: Context, ev: Draft) -> StopEvent:
        ctx.write_event_to_stream(Progress(msg="polishing"))
        await asyncio.sleep(0.2)
        return StopEvent(result="\n".join(line.capitalize() for line in ev.text.splitlines()))


async def main() -> None:
    with umbel.local():
        handler = Poet(timeout=60).run(topic="rain")
        async for event in handler.stream_events():
            match event:
                case Progress():
                    print(f"\n[{event.msg}]")
                case Word():
                    print(event.word, end=" ", flush=True)
        print(f"\n{await handler}")


if __name__ == "__main__":
    asyncio.run(main())
