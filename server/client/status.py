"""`scribewire status`: what a server has loaded, the memory that it takes, and what waits.

Read from its readiness and its metrics, which every server has.
"""

from __future__ import annotations

import json
import re
from typing import Any

from scribewire.engine.processes.console import Console, shown_bytes, table
from scribewire.server.client.connection import ServerConnection
from scribewire.server.client.failures import EXIT_FAILED, Refused

_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def show_status(server: ServerConnection, console: Console, *, as_json: bool) -> int:
    """Show a server's state; returns 1 where it accepts no recordings."""
    reason = None
    model: dict[str, Any] = {}
    try:
        model = server.readiness()
    except Refused as refusal:
        reason = {"code": refusal.code, "message": str(refusal)}
    status = _status(server.url, model, _Figures(server.metrics()), reason)
    if as_json:
        console.say(json.dumps(status, ensure_ascii=False, indent=2))
    else:
        for line in table(_rows(status), columns=console.columns):
            console.say(line)
    return 0 if reason is None else EXIT_FAILED


class _Figures:
    """Samples of Prometheus' text format."""

    def __init__(self, text: str) -> None:
        found = (_SAMPLE.fullmatch(line) for line in text.splitlines())
        self._samples = [
            (one[1].removeprefix("scribewire_"), dict(_LABEL.findall(one[2] or "")), float(one[3]))
            for one in found
            if one is not None
        ]

    def labels(self, name: str) -> dict[str, str]:
        """Labels of the first sample."""
        return next((labels for found, labels, _ in self._samples if found == name), {})

    def count(self, name: str, **labels: str) -> int | None:
        """A sample's value, None where there is none."""
        values = (
            value
            for found, given, value in self._samples
            if found == name and labels.items() <= given.items()
        )
        first = next(values, None)
        return None if first is None else int(first)

    def by_label(self, name: str, label: str) -> dict[str, int]:
        """Values of all samples, by one label."""
        return {labels[label]: int(value) for found, labels, value in self._samples if found == name}


def _status(
    url: str, model: dict[str, Any], figures: _Figures, reason: dict[str, Any] | None
) -> dict[str, Any]:
    build = figures.labels("build_info")
    states = figures.by_label("engine_state", "state")
    return {
        "server": url,
        "version": build.get("version"),
        "ready": reason is None,
        "reason": reason,
        "engine": next((state for state, is_now in states.items() if is_now), None),
        "model": model.get("model"),
        "demo": build.get("demo") == "true",
        "device": build.get("device") or None,
        "dtype": build.get("dtype") or None,
        "memory_bytes": {
            "engine": figures.count("resident_bytes", process="engine"),
            "device": figures.count("device_bytes", state="active"),
            "front": figures.count("process_resident_memory_bytes"),
        },
        "queue": figures.by_label("queue_depth", "queue"),
        "in_hand": figures.count("engine_recordings"),
        "jobs": figures.by_label("jobs", "status"),
    }


def _rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    reason = status["reason"]
    rows = [("server", f"{status['server']}, scribewire {status['version']}")]
    rows.append(("state", "ready" if reason is None else f"{reason['message']} ({reason['code']})"))
    if status["model"] is not None:
        rows.append(("model", status["model"] + (" (the bundled demo model)" if status["demo"] else "")))
        rows.append(("device", f"{status['device']}, {status['dtype']}"))
    memory = {name: count for name, count in status["memory_bytes"].items() if count is not None}
    rows.append(("memory", ", ".join(f"{shown_bytes(count)} {name}" for name, count in memory.items())))
    waiting = status["queue"].get("engine", 0)
    rows.append(("recordings", f"{status['in_hand']} in hand, {waiting} waiting"))
    jobs = [f"{count} {name}" for name, count in status["jobs"].items() if count]
    rows.append(("jobs", ", ".join(jobs) or "none"))
    return rows
