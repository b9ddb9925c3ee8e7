"""The Grafana dashboard queries only existing metrics."""

from __future__ import annotations

import json
import re

import httpx

from support.docs.pages import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "umbel.json").read_text())


async def test_every_query_of_the_dashboard_asks_for_a_metric_that_the_server_reports(
    client: httpx.AsyncClient,
) -> None:
    reported = set(re.findall(r"^# HELP (\w+)", (await client.get("/metrics")).text, re.MULTILINE))
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

    asked = {re.sub(r"_(bucket|count)$", "", name) for query in queries for name in re.findall(r"\bumbel_\w+", query)}

    assert asked <= reported
    assert reported <= asked, "metrics that no panel shows"


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
