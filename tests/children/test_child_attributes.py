"""Workflows as typed attributes: emitting the child's start event runs it, and its stop event is returned."""

from __future__ import annotations

import sys

import pytest

from umbel import Context, StartEvent, StepFailedEvent, StopEvent, Workflow, catch_error, step
from umbel.errors import WorkflowValidationError
from umbel.tasks.steps.child_steps import declared_child_steps

pytestmark = pytest.mark.usefixtures("runtime")


class SummarizeStart(StartEvent):
    text: str


class SummarizeStop(StopEvent):
    summary: str


class Summarizer(Workflow):
    def __init__(self, length: int = 3, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.length = length

    @step
    async def summarize(self, ev: SummarizeStart) -> SummarizeStop:
        if not ev.text:
            raise ValueError("nothing to summarize")
        return SummarizeStop(summary=ev.text[: self.length])


async def test_a_fan_out_of_start_events_is_gathered_from_the_stop_events_of_children() -> None:
    class Report(Workflow):
        summarizer: Summarizer

        @step
        async def fan(self, ev: StartEvent) -> list[SummarizeStart]:
            return [SummarizeStart(text=text) for text in ev.texts]

        @step
        async def join(self, evs: list[SummarizeStop]) -> StopEvent:
            return StopEvent(result=sorted(ev.summary for ev in evs))

    assert await Report().run(texts=["abcdef", "ghijkl", "mno"]) == ["abc", "ghi", "mno"]


async def test_one_start_event_and_one_stop_event_need_no_list() -> None:
    class Report(Workflow):
        summarizer: Summarizer

        @step
        async def begin(self, ev: StartEvent) -> SummarizeStart:
            return SummarizeStart(text=ev.text)

        @step
        async def end(self, ev: SummarizeStop) -> StopEvent:
            return StopEvent(result=ev.summary)

    assert await Report().run(text="abcdef") == "abc"


async def test_the_child_that_the_constructor_made_is_the_one_that_is_run() -> None:
    ran: list[float | None] = []

    class Timed(Summarizer):
        @step
        async def summarize(self, ctx: Context, ev: SummarizeStart) -> SummarizeStop:
            ran.append(1)
            return SummarizeStop(summary=ev.text)

    class Report(Workflow):
        summarizer: Summarizer

        def __init__(self, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type]
            self.summarizer = Timed()

        @step
        async def begin(self, ev: StartEvent) -> SummarizeStart:
            return SummarizeStart(text=ev.text)

        @step
        async def end(self, ev: SummarizeStop) -> StopEvent:
            return StopEvent(result=ev.summary)

    assert await Report().run(text="abcdef") == "abcdef"
    assert ran == [1]


async def test_a_failed_child_is_rescued_as_any_step() -> None:
    class Report(Workflow):
        summarizer: Summarizer

        @step
        async def begin(self, ev: StartEvent) -> SummarizeStart:
            return SummarizeStart(text="")

        @step
        async def end(self, ev: SummarizeStop) -> StopEvent:
            return StopEvent(result=ev.summary)

        @catch_error(for_steps=["summarizer"])
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=str(ev.exception.__cause__))

    assert await Report().run() == "nothing to summarize"


async def test_an_attribute_whose_start_event_is_not_emitted_is_an_attribute_as_others() -> None:
    class Report(Workflow):
        summarizer: Summarizer

        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.run(Summarizer(), text="abcdef")).summary)

    assert list(Report().steps) == ["begin"]
    assert await Report().run() == "abc"


def test_a_stop_event_of_no_child_cannot_be_accepted() -> None:
    class Odd(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> SummarizeStop: ...

        @step
        async def end(self, ev: SummarizeStop) -> SummarizeStop: ...

    with pytest.raises(WorkflowValidationError, match="cannot accept StopEvent"):
        Odd().validate()


#: Without postponed annotations. Names imported for type checkers do not exist at run time.
LATE = """
class Parent(Workflow):
    child: Summarizer
    other: KnownToCheckersOnly

    @step
    async def ask(self, ev: StartEvent) -> SummarizeStart:
        return SummarizeStart(text=ev.text)

    @step
    async def answer(self, ev: SummarizeStop) -> StopEvent:
        return StopEvent(result=ev.summary)
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated with the class")
def test_an_annotation_that_cannot_be_evaluated_hides_no_child_beside_it() -> None:
    names = dict(globals())
    exec(compile(LATE, __file__, "exec", dont_inherit=True), names)
    assert list(declared_child_steps(names["Parent"])) == ["child"]
