"""What `tools.bench.quantizing` tells of a run, and of one that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.tiny_model import write_tiny_model
from tools.bench import quantizing


def test_a_run_is_told_with_its_sizes_and_leaves_no_copy(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    quantizing.main([str(model), "--recipe", "8bit", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "quantizing.json").read_text())
    assert 0 < found["result_bytes"] < found["source_bytes"]
    assert found["peak_resident_bytes"] > 10 << 20
    assert found["processor_seconds"] > 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model", "quantizing.json"]


def test_a_recipe_that_does_not_exist_ends_with_the_command_s_words(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    with pytest.raises(SystemExit, match="3bit-ish"):
        quantizing.main([str(model), "--recipe", "3bit-ish", "--out", str(tmp_path)])
