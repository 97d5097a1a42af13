"""Metal's form of the model on the CPU: what it says is what the plain form says, and its process ends in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scribewire import Transcriber
from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import EngineConfig
from tests.fakes.clips import babbling
from tests.fakes.media import riff
from tests.fakes.metal_form import FORGETS_TO_CLOSE
from tests.fakes.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
ENDS = 5
"""A process that left its streams to chance ended by abort in five of six runs."""


def in_metal_s_form(model: str, dtype: str, *recordings: Path, forgets_to_close: bool = False) -> list[str]:
    """Texts, from a process that has ended with exit code 0."""
    environment = os.environ | ({FORGETS_TO_CLOSE: "1"} if forgets_to_close else {})
    command = [sys.executable, "-m", "tests.fakes.metal_form", model, dtype, *map(str, recordings)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    texts: list[str] = json.loads(ended.stdout)
    return texts


@pytest.fixture(scope="module")
def plain_texts() -> list[str]:
    """Of the bundled recordings, one at a time, dequantized and multiplied in 32 bits."""
    with Transcriber(config=EngineConfig(model="demo", device="cpu", offline=True)) as transcriber:
        return [transcriber.transcribe(one.path).text for one in sample_recordings()]


@pytest.mark.parametrize(
    "dtype",
    # A CPU emulates float16, which takes a minute and more.
    ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)],
)
def test_the_demo_model_says_in_metal_s_form_what_it_says_in_the_plain_one(
    dtype: str, plain_texts: list[str]
) -> None:
    paths = [one.path for one in sample_recordings()]
    # Rows of different lengths, so that there is a mask; and one that is alone at the end.
    assert in_metal_s_form("demo", dtype, *paths, paths[0]) == [*plain_texts, plain_texts[0]]


@pytest.mark.parametrize("forgets_to_close", [False, True])
def test_a_process_that_computed_with_compiled_functions_ends_in_order(
    tmp_path: Path, forgets_to_close: bool
) -> None:
    folder = write_tiny_model(tmp_path)
    clip = tmp_path / "clip.wav"
    clip.write_bytes(riff((babbling("ends", 0.5) * 32_767).astype("<i2").tobytes()))
    texts = [
        in_metal_s_form(str(folder), "bfloat16", clip, forgets_to_close=forgets_to_close) for _ in range(ENDS)
    ]
    assert texts == [texts[0]] * ENDS
