"""The dashboard and the page of figures against a server that exports them: no name without a figure behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until

PROJECT = Path(__file__).resolve().parent.parent.parent
DASHBOARD = PROJECT / "deploy" / "grafana" / "scribewire.json"
PAGE = PROJECT / "docs" / "metrics.md"
RUNBOOK = PROJECT / "deploy" / "README.md"
NAME = re.compile(r"\b(?:scribewire|process)_[a-z_]+")


@pytest.fixture(scope="module")
def exported(server: RunningServer) -> dict[str, set[str]]:
    """Every sample's name with the labels it came with, once something of each kind has happened."""
    server.transcribe(script(text="x"))
    server.client.post("/v1/audio/transcriptions", files={"other": b"x"})
    text = wait_until(lambda: "device_bytes{" in (now := server.client.get("/metrics").text) and now)
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"([a-z_]+)(?:\{(.*?)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return content


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"], target["legendFormat"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"], ""


def test_every_figure_of_the_dashboard_is_exported_with_the_labels_it_uses(
    dashboard: dict[str, Any], exported: dict[str, set[str]]
):
    given_by_prometheus = {"instance", "job"}
    for expression, legend in expressions(dashboard):
        names = NAME.findall(expression)
        assert names, expression
        assert set(names) <= set(exported), expression
        labels = set().union(*(exported[name] for name in names)) | given_by_prometheus
        used = re.findall(r"(\w+)=~?\"", expression) + re.findall(r"\{\{(\w+)\}\}", legend)
        for grouping in re.findall(r"by \((.*?)\)", expression):
            used += re.split(r",\s*", grouping)
        assert set(used) <= labels, expression


def test_every_exported_figure_is_documented_and_nothing_else_is(exported: dict[str, set[str]]):
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    documented: set[str] = set()
    for name, kind in rows:
        documented |= (
            {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
        )
    on_linux = {name for name in documented if name.startswith("process_")}
    assert documented - on_linux == {name for name in exported if name.startswith("scribewire_")}
    assert {name for name in exported if name.startswith("process_")} <= on_linux


def test_every_scribewire_figure_is_on_the_dashboard(
    dashboard: dict[str, Any], exported: dict[str, set[str]]
):
    shown = {name for expression, _ in expressions(dashboard) for name in NAME.findall(expression)}
    ends = re.compile(r"_(bucket|sum|count)$")
    families = {ends.sub("", name) for name in exported if name.startswith("scribewire_")}
    assert families == {ends.sub("", name) for name in shown if name.startswith("scribewire_")}


def test_panels_have_ids_places_and_a_source_of_their_own(dashboard: dict[str, Any]):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels if panel["type"] != "row")


def test_runbook_says_how_to_scrape_it():
    text = RUNBOOK.read_text(encoding="utf-8")
    assert "metrics_path: /metrics" in text
    assert "deploy/grafana/scribewire.json" in text
