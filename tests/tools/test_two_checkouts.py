"""The comparison of two checkouts measures both sides of what it says, by real servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not (ROOT / ".venv/bin/python").exists(), reason="compares checkouts in which `make setup` ran"
)
def test_a_checkout_beside_itself_is_measured_on_both_sides(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.bench.two_checkouts", "--before", str(ROOT)]
    options = [
        "--runs",
        "1",
        "--clients",
        "2",
        "--out",
        str(tmp_path),
        "--",
        "--model",
        "demo",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert "after / before" in done.stdout
    document = json.loads((tmp_path / "two_checkouts.json").read_text())
    assert set(document["ratios"]) == {"10 s clip", "2 clients", "around the engine, 1 MB", "front, resident"}
    assert all(one["ratio"] > 0 for one in document["ratios"].values())
    assert len(document["results"]) == 8
    assert document["results"]["10 s clip: before"]["count"] == 3
    # Two clients send two clips each, so together they take longer than one clip.
    medians = {name: one["median"] for name, one in document["results"].items()}
    assert medians["2 clients: after"] > medians["10 s clip: after"]
