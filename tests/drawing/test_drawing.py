"""Drawings of workflows: what the file contains, what it does not, and where boxes are placed."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from umbel.tasks.client.workflow import Workflow
from umbel.tasks.drawing.draw import draw_all_possible_flows, draw_all_possible_flows_mermaid
from umbel.tasks.drawing.html import as_html, as_svg
from umbel.tasks.drawing.layout import Placed, lay_out
from umbel.tasks.drawing.mermaid import as_mermaid
from umbel.tasks.drawing.picture import Arrow, Box, Picture
from umbel.tasks.events.event import Event, StartEvent, StopEvent
from umbel.tasks.steps.decorators import step


class Guess(Event):
    low: int


class Search(Workflow):
    """Finds a number <by halving> & "guessing"."""

    @step
    def begin(self, ev: StartEvent) -> Guess: ...

    @step
    def halve(self, ev: Guess) -> Guess | StopEvent:
        """Halves what is left."""


class Parent(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await Search(timeout=5).run())


def texts(svg: str) -> list[str]:
    """Return the labels of an SVG, which must be well-formed XML."""
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def svg_of(page: str) -> str:
    return page[page.index("<svg") : page.index("</svg>") + len("</svg>")]


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_file_shows_every_step_and_event_and_says_the_same_in_words(tmp_path: Path) -> None:
    assert draw_all_possible_flows(Search, tmp_path / "flows.html") is None

    page = (tmp_path / "flows.html").read_text()
    assert set(texts(svg_of(page))) == {"StartEvent", "begin", "Guess", "halve", "StopEvent"}
    assert (
        "<tr><td>halve</td><td>Guess</td><td>Guess, StopEvent</td><td></td><td>Halves what is left.</td></tr>" in page
    )


def test_the_file_loads_nothing_and_shows_everything_without_a_script(tmp_path: Path) -> None:
    draw_all_possible_flows(Search(), tmp_path / "flows.html")

    page = (tmp_path / "flows.html").read_text()
    addresses = set(re.findall(r"https?://[^\"' )]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the XML namespace, which nothing loads
    assert not re.search(r"<(link|img|iframe|object)\b|\bsrc=|@import|url\((?!#)", page)
    assert "halve" in page[: page.index("<script>")]
    assert "prefers-color-scheme: dark" in page


def test_what_authors_write_is_text_and_never_markup(tmp_path: Path) -> None:
    boxes = (Box('<b id="x">', "step", "<script>alert(1)</script>", "a & b", "'\"<i>"), Box("z", "event", "]]>"))
    picture = Picture("</title><script>", boxes, (Arrow('<b id="x">', "z", "<u>"),), summary="<p>", rows=(("<td>",),))

    page = as_html(picture)

    assert page.count("<script>") == 1  # the page's own
    assert "<script>alert(1)</script>" in texts(svg_of(page))
    assert "<b id" not in as_mermaid(picture)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "flows.html"
    file.write_text("the old one")
    watched = file.open()

    draw_all_possible_flows(Search, file)

    assert watched.read() == "the old one"  # the file was replaced, not overwritten in place
    watched.close()
    assert [path.name for path in tmp_path.iterdir()] == ["flows.html"]
    with pytest.raises(FileNotFoundError):
        draw_all_possible_flows(Search, tmp_path / "missing" / "flows.html")


def test_a_notebook_is_given_the_page_in_a_frame_of_its_own(tmp_path: Path) -> None:
    drawing = draw_all_possible_flows(Search, tmp_path / "flows.html", notebook=True)

    assert drawing is not None
    [framed] = re.findall(r'srcdoc="([^"]*)"', drawing._repr_html_())
    assert unescape(framed) == drawing.html == (tmp_path / "flows.html").read_text()


# -- labels, children, mermaid ---------------------------------------------------------------------------------------


def test_labels_are_cut_and_whole_on_hovering(tmp_path: Path) -> None:
    draw_all_possible_flows(Search, tmp_path / "flows.html", max_label_length=6)

    svg = svg_of((tmp_path / "flows.html").read_text())
    assert "Start*" in texts(svg)
    assert "<title>StartEvent</title>" in svg


def test_workflows_that_a_step_starts_are_drawn_too_by_default() -> None:
    whole = draw_all_possible_flows_mermaid(Parent)

    assert '    child_ask_Search_calls["calls: Search"]:::childStyle' in whole.splitlines()
    assert "    child_ask_Search_calls --> event_ask_Search_StartEvent" in whole.splitlines()
    assert "    event_ask_Search_StopEvent --> child_ask_Search_returns" in whole.splitlines()
    assert "    child_ask_Search_returns --> step_ask" in whole.splitlines()
    assert "Search" not in draw_all_possible_flows_mermaid(Parent, include_child_workflows=False)


def test_a_child_that_is_defined_inside_a_function_is_found() -> None:
    class Inner(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...

    class Outer(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Inner().run())

    assert "calls: Inner" in draw_all_possible_flows_mermaid(Outer)


def test_mermaid_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    chart = draw_all_possible_flows_mermaid(Search, tmp_path / "flows.mermaid")

    assert (tmp_path / "flows.mermaid").read_text() == chart + "\n"
    assert chart.splitlines()[:9] == [
        "flowchart TD",
        '    event_StartEvent(["StartEvent"]):::startStyle',
        '    step_begin["begin"]:::stepStyle',
        '    event_Guess(["Guess"]):::eventStyle',
        '    step_halve["halve"]:::stepStyle',
        '    event_StopEvent(["StopEvent"]):::stopStyle',
        "    step_begin --> event_Guess",
        "    event_StartEvent --> step_begin",
        "    step_halve --> event_Guess",
    ]


# -- layout ----------------------------------------------------------------------------------------------------------

SIZE = (60.0, 30.0)


def overlaps(placed: Placed) -> list[tuple[str, str]]:
    found = []
    for one, (ax, ay) in placed.centers.items():
        found += [
            (one, other)
            for other, (bx, by) in placed.centers.items()
            if one < other and abs(ax - bx) < SIZE[0] and abs(ay - by) < SIZE[1]
        ]
    return found


def grid(width: int) -> tuple[dict[str, tuple[float, float]], list[tuple[str, str]]]:
    """Return a fan-out of `width` branches of two steps each, gathered again, with a loop back to the start."""
    arrows = [("end", "start")]
    for number in range(width):
        arrows += [("start", f"a{number}"), (f"a{number}", f"b{number}"), (f"b{number}", "end")]
    names = dict.fromkeys(name for arrow in arrows[1:] for name in arrow)
    return dict.fromkeys(names, SIZE), arrows


@pytest.mark.parametrize("sideways", [False, True])
def test_boxes_do_not_overlap_and_stay_inside(sideways: bool) -> None:
    sizes, arrows = grid(9)

    placed = lay_out(sizes, arrows, sideways=sideways)

    assert overlaps(placed) == []
    points = [*placed.centers.values(), *(point for path in placed.paths for point in path)]
    assert all(-0.1 <= x <= placed.width + 0.1 and -0.1 <= y <= placed.height + 0.1 for x, y in points)


def test_arrows_run_down_and_those_that_close_a_loop_run_up() -> None:
    sizes, arrows = grid(3)

    placed = lay_out(sizes, arrows)

    rises = [path[-1][1] < path[0][1] for path in placed.paths]
    assert rises == [True] + [False] * 9


def test_a_branch_is_a_straight_line() -> None:
    sizes, arrows = grid(5)

    placed = lay_out(sizes, arrows)

    assert all(abs(placed.centers[f"a{n}"][0] - placed.centers[f"b{n}"][0]) < 1 for n in range(5))


def test_two_arrows_between_the_same_boxes_are_two() -> None:
    placed = lay_out({"a": SIZE, "b": SIZE}, [("a", "b"), ("b", "a")])

    assert abs(placed.paths[0][0][0] - placed.paths[1][0][0]) > 5


def test_a_box_may_lead_to_itself_and_a_picture_may_be_empty() -> None:
    assert texts(as_svg(Picture("itself", (Box("a", "step", "a"),), (Arrow("a", "a"),)))) == ["a"]
    assert texts(as_svg(Picture("nothing", (), ()))) == []
