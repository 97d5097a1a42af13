"""Loading is measured in processes of their own, in this checkout and another."""

import json
import sys
from pathlib import Path

import pytest

from scribewire.engine.demo import demo_model_path
from tools.bench import loading


def test_two_checkouts_are_loaded_in_turn_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["loading", str(demo_model_path()), "--before", str(loading.HERE), "--loads", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path)])
    loading.main()
    result = json.loads((tmp_path / "loading.json").read_text())
    for side in ("before", "after"):
        assert result[side]["processor"]["median"] > 0
        assert result[side]["peak_resident_bytes"] > result[side]["weights_bytes"] > 40e6
    assert result["after"]["peak_to_weights"]["met"]
    assert result["processor_ratio"]["ratio"] > 0
