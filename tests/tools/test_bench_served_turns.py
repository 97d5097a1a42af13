"""The benchmark of a server's moves, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.tiny_model import write_tiny_model
from tools.bench import served_turns


def test_turns_of_each_round_are_told_apart_from_those_before(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    given = [
        "--clients",
        "1",
        "3",
        "--rounds",
        "1",
        "--seconds",
        "0.5",
        "--clip-seconds",
        "1",
        "--device",
        "cpu",
    ]
    assert served_turns.main(["--model", str(model), *given, "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "served_turns.json").read_text())
    assert document["ready_seconds"] > 0
    one, three = document["found"]
    for found, clients in ((one, 1), (three, 3)):
        assert found["clients"] == clients
        admitted = sum(turn["rows"] * turn["count"] for turn in found["turns"] if turn["move"] == "admit")
        assert admitted == found["requests"], "no turn of the warm-up or of another round"
        # Two tokens at least for a second of audio, and one step in vain.
        steps = sum(turn["rows"] * turn["count"] for turn in found["turns"] if turn["move"] == "step")
        assert steps >= 2 * found["requests"]
    assert {turn["rows"] for turn in one["turns"]} == {1}
