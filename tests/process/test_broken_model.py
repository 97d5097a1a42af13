"""A checkpoint that cannot work is one line to `serve` too, with the real engine and the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.fakes.tiny_model import write_tiny_model

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120


def without_thinker(folder: Path) -> None:
    rewrite_config(folder, lambda config: config.update(thinker_config=None))


def other_audio_token(folder: Path) -> None:
    rewrite_config(folder, lambda config: config["thinker_config"].update(audio_token_id=7))


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def not_a_number(folder: Path) -> None:
    path = str(folder / "model.safetensors")
    tensors = mx.load(path)
    assert isinstance(tensors, dict)
    mx.eval(list(tensors.values()))
    mx.save_safetensors(path, {**tensors, "model.norm.weight": tensors["model.norm.weight"] * float("nan")})


def rewrite_config(folder: Path, changes: Callable[[Any], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    changes(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_thinker, "not a Qwen3-ASR model"),
        (other_audio_token, "audio_token_id 7"),
        (cut_off, "model.safetensors"),
        (not_a_number, "model.norm.weight holds NaN"),
    ],
)
def test_serve_tells_of_a_broken_model_in_one_line_and_ends(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = write_tiny_model(tmp_path / "model")
    damage(folder)
    command = [sys.executable, "-m", "scribewire", "serve", "--port", "0", "--data", str(tmp_path / "data")]
    ended = subprocess.run(
        [*command, "--model", str(folder)],
        cwd=PROJECT,
        env={**os.environ, "SCRIBEWIRE_LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    told = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert ended.returncode == 1
    assert len(told) == 1, ended.stderr
    assert words in told[0]
    assert "Traceback" not in ended.stderr
    assert "ready on" not in ended.stdout
