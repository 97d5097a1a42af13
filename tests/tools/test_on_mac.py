"""`make mac-check`: its commands, its document and its page; and its measurements on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.waiting import PATIENCE_SECONDS, STORY_SECONDS
from tools.bench import mac_page
from tools.bench.on_gpu import Part
from tools.bench.on_mac import ROWS, TOKENS, document, parts
from tools.bench.random_model import write_random_model
from tools.bench.sizes import RECIPES, SIZES

pytestmark = pytest.mark.process

EVERY = parts(Path("out"), Path("keep"), Path("peers/bin/python"))
MEASURED = [part for part in EVERY if part.name != "tests"]


@pytest.mark.parametrize("part", MEASURED, ids=lambda part: part.name)
def test_every_option_that_a_part_gives_is_in_the_help_of_its_command(part: Part) -> None:
    said = subprocess.run(
        [*part.command[:3], "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout
    options = [word for word in part.command if word.startswith("--")]
    assert options
    assert [option for option in options if option not in said] == []


def test_rows_types_and_sizes_of_command_buffers_are_all_measured() -> None:
    steps = {part.name: part.command for part in EVERY if part.name.startswith("steps-")}
    assert set(steps) == {f"steps-{dtype}-{ops}" for dtype in ("float16", "bfloat16") for ops in (10, 200)}
    rows = " ".join(map(str, (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 24, 32)))
    assert all(f"--rows {rows}" in " ".join(command) for command in steps.values())
    assert (ROWS[-1], TOKENS[0], TOKENS[-1]) == (32, 256, 4096)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random-tiny-8bit"
    return write_random_model(folder, SIZES["tiny"], RECIPES["8bit"])


def measured(tiny: Path, out: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "tools.bench.mac_steps", str(tiny), "--device", "cpu"]
    subprocess.run(
        [*command, "--dtype", "float32", "--out", str(out), *arguments],
        check=True,
        capture_output=True,
        timeout=STORY_SECONDS,
    )
    return json.loads(out.read_text())


def test_steps_and_prefill_of_a_tiny_model_reach_the_page(tiny: Path, tmp_path: Path) -> None:
    steps = ("--rows", "1", "3", "--steps", "2", "--row-seconds", "3", "--max-ops", "10")
    found = measured(tiny, tmp_path / "steps-float16-10.json", *steps)
    assert set(found["by_rows"]) == {"1", "3"}
    ways = found["by_rows"]["3"]
    assert set(ways) == {"aligned waited", "aligned", "ragged waited", "ragged"}
    assert all(one["step"]["count"] == 2 and one["bytes_over_held"] >= 0 for one in ways.values())
    rest = ("--tokens", "64", "128", "--rounds", "1", "--idle-seconds", "0")
    found = measured(tiny, tmp_path / "prefill-float16.json", *rest)
    assert set(found["by_tokens"]) == {"64", "128"}
    whole = document(tmp_path, EVERY, [{"name": "tests", "outcome": "done", "seconds": 3.0}])
    assert set(whole["results"]) == {"steps-float16-10", "prefill-float16"}
    text = "\n".join(mac_page.page(whole | {"when": "today", "command": "make", "versions": {"mlx": "1"}}))
    assert "| float32 | 10 | 3 | ragged |" in text
    assert "| float32 | 128 |" in text
    assert "64 tokens took" in text
    assert str(tmp_path) not in text + json.dumps(whole)


def test_published_figures_stand_beside_those_that_were_measured() -> None:
    def clip(model: str, seconds: float, **peers: float) -> dict:
        times = {name: {"median": value} for name, value in {"scribewire": seconds, **peers}.items()}
        subject = {"model": f"random 0.6b {model}", "dtype": "float16"}
        return {"subject": subject, "parts": {"clip": {"by_seconds": {"10": {"times": times}}}}}

    results = {
        "clip-fp16-float16": clip("fp16", 0.415),
        "clip-8bit-float16": clip("8bit", 0.54, peer=1.08),
        "clip-4bit-float16": {"parts": {"clip": {"error": "broken off"}}},
    }
    assert mac_page.comparison({"results": results})[2:] == [
        "| random 0.6b fp16, float16 | 415.0 ms | 0.83 s on an M4 Pro | 0.50 |",
        "| random 0.6b 8bit, float16 | 540.0 ms | 0.27 s on an M4 Pro | 2.00 |",
        "| random 0.6b 8bit, float16 | 540.0 ms | 2.0 to 3.1 s on an M1 | 0.17 to 0.27 |",
        "| random 0.6b 8bit, float16 | 540.0 ms | peer, here: 1.08 s | 0.50 |",
    ]
