"""What `@step` reads from the signature of a function, and which signatures it refuses."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, List, Optional, Union  # noqa: UP035  # old spellings are accepted

import pytest

from support.steps import A, B, Counter, Ctx, config_of, decorated, module_level, refused
from umbel.orchestration.model.errors import WorkflowValidationError
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import Event, StartEvent
from umbel.tasks.steps.collect import All, Collect, Take
from umbel.tasks.steps.decorators import StepConfig, step
from umbel.tasks.steps.signature import ResourceMarker


def test_parameters_are_distinguished_by_annotation_in_any_order() -> None:
    resource = ResourceMarker()

    def mixed(
        client: Annotated[dict[str, int], "ignored", resource],
        ctx: Ctx[Counter],
        ev: Annotated[A, "ignored"],
        n: int = 3,
    ) -> None: ...

    config = decorated(mixed)

    assert config.context_parameter == "ctx"
    assert config.state_class is Counter
    assert [(p.name, p.accepts) for p in config.event_parameters] == [("ev", (A,))]
    assert [(r.name, r.type, r.resource) for r in config.resources] == [("client", dict[str, int], resource)]


def test_an_untyped_context_has_no_state_class() -> None:
    def bare(ctx: Ctx, ev: A) -> None: ...  # type: ignore[type-arg]  # as users write it

    def anything(ctx: Ctx[Any], ev: A) -> None: ...

    def optional(ev: A, ctx: Ctx[Any] | None = None) -> None: ...

    for function in (bare, anything, optional):
        assert (decorated(function).context_parameter, decorated(function).state_class) == ("ctx", None)


def test_an_event_parameter_may_be_a_union_optional_or_any_event() -> None:
    def new(ev: A | B) -> None: ...

    def old(ev: Union[A, B]) -> None: ...  # noqa: UP007

    def optional(ev: Optional[A]) -> None: ...  # noqa: UP045

    def quoted(ev: "A | B") -> None: ...  # noqa: UP037

    def anything(ev: Event) -> None: ...

    assert decorated(new).accepted_events == [A, B]
    assert decorated(old).accepted_events == [A, B]
    assert decorated(optional).accepted_events == [A]
    assert decorated(quoted).accepted_events == [A, B]
    assert decorated(anything).accepted_events == [Event]
    assert decorated(new).kind == "each"


def test_a_list_parameter_makes_a_collect_step() -> None:
    def plain(evs: list[A]) -> None: ...

    def union(evs: list[A | B]) -> None: ...

    def optional(evs: list[A] | None) -> None: ...

    def old(evs: List[A]) -> None: ...  # noqa: UP006

    def everything(evs: Annotated[list[A], Collect()]) -> None: ...

    def first(evs: Annotated[list[A], Collect(Take(2))]) -> None: ...

    for function in (plain, union, optional, old, everything):
        assert (decorated(function).kind, decorated(function).cardinality) == ("collect", All())
    assert decorated(union).accepted_events == [A, B]
    assert decorated(first).cardinality == Take(2)


def test_several_event_parameters_make_a_join_in_their_order() -> None:
    def both(b: B, a: A, again: B) -> None: ...

    config = decorated(both)

    assert config.kind == "all_of"
    assert [parameter.name for parameter in config.event_parameters] == ["b", "a", "again"]
    assert config.accepted_events == [B, A, B]


def test_single_and_listed_returns_are_kept_apart() -> None:
    def nothing(ev: StartEvent) -> None: ...

    def union(ev: StartEvent) -> A | B | None: ...

    def listed(ev: StartEvent) -> list[A | B]: ...

    def either(ev: StartEvent) -> list[A] | B | None: ...

    def same(ev: StartEvent) -> list[A] | A: ...

    def returns(function: Any) -> tuple[Any, ...]:
        config = decorated(function)
        return config.single_returns, config.list_returns, config.allows_none

    assert returns(nothing) == ((), (), True)
    assert returns(union) == ((A, B), (), True)
    assert returns(listed) == ((), (A, B), False)
    assert returns(either) == ((B,), (A,), True)
    assert returns(same) == ((A,), (A,), False)
    assert decorated(nothing).return_types == [type(None)]
    assert decorated(either).return_types == [B, A]


def test_postponed_annotations_see_classes_of_the_surrounding_functions() -> None:
    class Outer(Event):
        pass

    def define() -> type[Workflow]:
        class Inner(Event):
            pass

        class Flow(Workflow):
            class Nested(Event):
                pass

            @step
            async def bare(self, ev: StartEvent) -> Outer: ...

            @step(num_workers=2)
            async def called(self, ev: Outer | Nested) -> Inner: ...

        return Flow

    flow: Any = define()

    assert config_of(flow.bare).single_returns == (Outer,)
    assert config_of(flow.called).accepted_events == [Outer, flow.Nested]
    assert config_of(flow.called).single_returns[0].__name__ == "Inner"


def test_postponed_annotations_see_classes_of_a_notebook_cell() -> None:
    cell = """
from __future__ import annotations
from umbel.tasks.steps.decorators import step
from umbel.tasks.events.event import Event, StartEvent
from umbel.tasks.client.workflow import Workflow
class Cell(Event): ...
class Flow(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Cell: ...
"""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cell, "<cell>", "exec"), names)

    assert config_of(names["Flow"].first).single_returns == (names["Cell"],)


def test_a_callers_variable_does_not_hide_a_module_name() -> None:
    def elsewhere() -> StepConfig:
        A = "not the event"  # noqa: F841  # shadows the module's class, but does not enclose the step
        return decorated(module_level)

    assert elsewhere().accepted_events == [A]


def test_an_unresolvable_annotation_is_named() -> None:
    def lost(ev: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    text = refused(lost)

    assert text.startswith("Failed to resolve type annotations for lost. Missing name: Missing.")
    assert "TYPE_CHECKING" in text


def test_a_broken_annotation_is_reported_with_its_error() -> None:
    def broken(ev: A.nothing) -> None: ...  # type: ignore[name-defined]

    assert refused(broken).startswith("Failed to resolve type annotations for broken: AttributeError:")


def test_only_functions_can_be_steps() -> None:
    with pytest.raises(TypeError, match="Expected a callable object, got str"):
        step("text")  # type: ignore[call-overload]

    with pytest.raises(WorkflowValidationError, match="A step must be a function"):
        step(functools.partial(module_level))

    with pytest.raises(WorkflowValidationError, match="put @staticmethod above"):

        class Flow(Workflow):
            @step
            @staticmethod
            def plain(ev: A) -> None: ...


@pytest.mark.parametrize("annotation", ["", ": str", ": A | str", ": list[int]", ": Ctx"])
def test_a_step_without_event_parameter_is_refused(annotation: str) -> None:
    scope: dict[str, Any] = {"A": A, "Ctx": Ctx}
    exec(f"def blind(self, ev{annotation}) -> None: ...", scope)

    text = refused(scope["blind"])

    assert text.startswith("Step signature must have at least one parameter annotated as type Event: step 'blind'")


def test_a_parameter_without_a_value_is_refused() -> None:
    def strange(ev: A, count: int) -> None: ...

    assert refused(strange).startswith("Step 'strange' takes count: int, for which no value exists.")


def test_a_list_parameter_stands_alone() -> None:
    def mixed(evs: list[A], b: B) -> None: ...

    def twice(first: list[A], second: list[B]) -> None: ...

    assert refused(mixed).startswith("A collection (list[E]) collect parameter cannot be combined with other event")
    assert "step 'mixed' has 'evs', 'b'" in refused(mixed)
    assert refused(twice).startswith("A step may declare at most one collection (list[E]) collect parameter")


def test_a_join_takes_one_class_for_each_parameter() -> None:
    def union(a: A, b: B | StartEvent) -> None: ...

    assert "single event type, but parameter 'b' of step 'union' declares 2" in refused(union)


def test_collect_belongs_on_a_list_and_knows_its_cardinalities() -> None:
    def single(ev: Annotated[A, Collect()]) -> None: ...

    def strange(evs: Annotated[list[A], Collect("many")]) -> None: ...

    assert refused(single).startswith("Parameter 'ev' carries a Collect marker but is not annotated as list[E]")
    assert refused(strange).startswith("Collect cardinality on 'evs' must be All() or Take(n), got 'many'")


def test_the_return_annotation_is_mandatory_and_names_events() -> None:
    def missing(ev: A): ...  # type: ignore[no-untyped-def]

    def text(ev: A) -> str: ...

    def bare_list(ev: A) -> list: ...  # type: ignore[type-arg]

    def pair(ev: A) -> tuple[A, B]: ...

    assert refused(missing).startswith(
        "Return types of workflows step functions must be annotated with their type: step 'missing'"
    )
    assert refused(text).startswith("Step 'text' is annotated to return str, which is not an Event.")
    assert refused(bare_list).startswith("Step 'bare_list' is annotated to return list")
    assert "tuple[" in refused(pair)


def test_asynchronous_generators_are_refused() -> None:
    async def generator(ev: StartEvent) -> AsyncGenerator[A, None]:
        yield A()

    async def iterator(ev: StartEvent) -> AsyncIterator[A]:
        yield A()

    for function in (generator, iterator):
        assert refused(function).startswith("Async-iterator fan-out is not supported: step")


def test_a_state_must_be_a_pydantic_model() -> None:
    def numbers(ctx: Ctx[int], ev: A) -> None: ...

    def twice(ctx: Ctx[Counter], other: Ctx[Counter], ev: A) -> None: ...

    assert refused(numbers).startswith("Step 'numbers' declares Context[int]")
    assert refused(twice).startswith("Step 'twice' has two Context parameters, 'ctx' and 'other'.")
