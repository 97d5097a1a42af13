"""The adapter of pyannote.audio with PyTorch itself, over a package that stands in for pyannote.audio.

Its functions have the names and signatures of pyannote.audio 4; what is tested is what the adapter makes of them.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from scribewire.engine.protocol.speakers import DiarizationConfig
from scribewire.engine.speakers.child import PipelineUnavailable

pytestmark = pytest.mark.torch

STAND_IN = textwrap.dedent(
    """
    from types import SimpleNamespace

    telemetry_was_off = None
    answer = None  # what from_pretrained raises or returns


    class Pipeline:
        @classmethod
        def from_pretrained(cls, checkpoint, revision=None, hparams_file=None, subfolder=None, token=None,
                            cache_dir=None):
            global telemetry_was_off
            from pyannote.audio import telemetry
            telemetry_was_off = telemetry.enabled is False
            if isinstance(answer, BaseException):
                raise answer
            return cls() if answer is None else answer()

        def to(self, device):
            self.device = device

        def __call__(self, file, preload=False, hook=None, **counts):
            self.heard = (file, counts)
            hook("segmentation", None, file=file, total=4, completed=1)
            hook("speaker_counting", object(), file=file)
            return SimpleNamespace(speaker_diarization="all", exclusive_speaker_diarization="alone",
                                   speaker_embeddings=[[1.0, 0.0]])
    """
)
TELEMETRY = "enabled = True\n\ndef set_telemetry_metrics(enabled_now, save_choice_as_default=False):\n"
TELEMETRY += "    global enabled\n    enabled = enabled_now\n"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The stand-in for pyannote.audio, and the adapter that imported it."""
    package = tmp_path / "pyannote" / "audio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "telemetry.py").write_text(TELEMETRY)
    monkeypatch.syspath_prepend(tmp_path)
    ours = ("pyannote.audio", "scribewire.engine.speakers.pyannote_pipeline")
    yield importlib.import_module(ours[0]), importlib.import_module(ours[1])
    for name in [one for one in sys.modules if one.startswith(ours)]:
        del sys.modules[name]


def test_samples_are_mapped_and_what_is_found_is_passed_on(
    stand_in: tuple[ModuleType, ModuleType], tmp_path: Path
):
    audio, adapter = stand_in
    samples = np.linspace(-1, 1, 16_000, dtype="<f4")
    (tmp_path / "samples").write_bytes(samples.tobytes())
    pipeline = adapter.load(DiarizationConfig("someone/pipeline", device="cpu"))
    assert audio.telemetry_was_off is True
    assert pipeline.device == "cpu"
    steps: list[tuple[str, float]] = []
    counts: dict[str, Any] = {"num_speakers": None, "min_speakers": 2, "max_speakers": None}
    found = pipeline.find(
        str(tmp_path / "samples"), on_step=lambda step, fraction: steps.append((step, fraction)), **counts
    )
    file, heard = pipeline._pipeline.heard
    assert heard == {"min_speakers": 2}
    assert file["sample_rate"] == 16_000
    assert file["waveform"].shape == (1, 16_000)
    assert np.array_equal(file["waveform"].numpy()[0], samples)
    assert steps == [("segmentation", 0.25), ("speaker_counting", 1.0)]
    assert (found.annotation, found.exclusive, found.embeddings) == ("all", "alone", [[1.0, 0.0]])


def test_a_plain_annotation_of_an_older_pipeline_is_taken_as_it_is(stand_in: tuple[ModuleType, ModuleType]):
    _, adapter = stand_in
    assert adapter._found("annotation").annotation == "annotation"
    assert adapter._found("annotation").exclusive is None


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("GatedRepoError", "accept them at https://huggingface.co/someone/pipeline"),
        ("RepositoryNotFoundError", "run `hf auth login` or set HF_TOKEN"),
        ("LocalEntryNotFoundError", "not on this disk"),
        (None, "accepted terms and a token"),
    ],
)
def test_what_keeps_the_model_away_is_told_with_what_to_do(
    stand_in: tuple[ModuleType, ModuleType], failure: str | None, words: str
):
    audio, adapter = stand_in
    if failure is None:
        audio.answer = lambda: None  # what older versions return instead of raising
    else:
        kind = getattr(importlib.import_module("huggingface_hub.errors"), failure)
        audio.answer = kind.__new__(kind)  # its constructor wants a response
    with pytest.raises(PipelineUnavailable, match=words):
        adapter.load(DiarizationConfig("someone/pipeline", device="cpu"))


def test_a_pipeline_that_cannot_be_loaded_is_named(stand_in: tuple[ModuleType, ModuleType]):
    audio, adapter = stand_in
    audio.answer = KeyError("pipeline")
    with pytest.raises(PipelineUnavailable, match="someone/other is no pipeline"):
        adapter.load(DiarizationConfig("someone/other", device="cpu"))
