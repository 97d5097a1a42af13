"""A pipeline of pyannote.audio 4, which the extra `speakers` installs; imported by name, in the speaker child only.

Its telemetry is turned off: nothing about a recording leaves the machine. A model that is on disk needs no network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from pyannote.audio import Pipeline
from pyannote.audio.telemetry import set_telemetry_metrics

from scribewire.engine.protocol.config import SAMPLE_RATE_HZ
from scribewire.engine.protocol.speakers import DiarizationConfig
from scribewire.engine.speakers.child import OnStep, PipelineUnavailable
from scribewire.engine.speakers.labels import PipelineOutput

SAMPLE_BYTES = 4


def load(config: DiarizationConfig) -> PyannotePipeline:
    """The pipeline on its device; raises PipelineUnavailable saying what to accept or where to get it."""
    set_telemetry_metrics(False)
    if config.offline:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    device = _device(config.device)
    try:
        pipeline = Pipeline.from_pretrained(_known_or_folder(config.model))
    except GatedRepoError as error:
        raise PipelineUnavailable(_terms(config.model)) from error
    except LocalEntryNotFoundError as error:
        raise PipelineUnavailable(
            f"the model {config.model} that tells speakers apart is not on this disk and cannot be fetched now: "
            "start once with a network and without --offline"
        ) from error
    except HfHubHTTPError as error:
        # A private or gated repository without a token reads as one that does not exist.
        raise PipelineUnavailable(f"{_terms(config.model)} ({_first_line(error)})") from error
    except Exception as error:
        raise PipelineUnavailable(
            f"{config.model} is no pipeline that pyannote.audio can load ({_first_line(error)})"
        ) from error
    if pipeline is None:
        raise PipelineUnavailable(_terms(config.model))
    pipeline.to(device)
    return PyannotePipeline(pipeline, device.type)


class PyannotePipeline:
    """A loaded pipeline. A SpeakerPipeline."""

    def __init__(self, pipeline: Callable[..., Any], device: str) -> None:
        self._pipeline = pipeline
        self.device = device

    def find(
        self,
        samples_path: str,
        *,
        num_speakers: int | None,
        min_speakers: int | None,
        max_speakers: int | None,
        on_step: OnStep,
    ) -> PipelineOutput:
        """See SpeakerPipeline; the samples are mapped, not read."""
        size = os.stat(samples_path).st_size // SAMPLE_BYTES
        samples = torch.from_file(samples_path, shared=False, size=size, dtype=torch.float32)

        def hook(
            step: str, *_: Any, total: int | None = None, completed: int | None = None, **__: Any
        ) -> None:
            on_step(step, completed / total if total and completed is not None else 1.0)

        wanted = {"num_speakers": num_speakers, "min_speakers": min_speakers, "max_speakers": max_speakers}
        file = {"waveform": samples[None, :], "sample_rate": SAMPLE_RATE_HZ, "uri": "recording"}
        with torch.inference_mode():
            output = self._pipeline(
                file, hook=hook, **{name: count for name, count in wanted.items() if count is not None}
            )
        return _found(output)


def _found(output: Any) -> PipelineOutput:
    if not hasattr(output, "speaker_diarization"):
        return PipelineOutput(output)  # an older pipeline's plain annotation
    return PipelineOutput(
        output.speaker_diarization, output.exclusive_speaker_diarization, output.speaker_embeddings
    )


def _known_or_folder(model: str) -> str:
    path = Path(model).expanduser()
    return str(path) if path.exists() else model


def _device(wanted: str) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _terms(model: str) -> str:
    return (
        f"the model {model} that tells speakers apart asks for accepted terms and a token: accept them at "
        f"https://huggingface.co/{model}, then run `hf auth login` or set HF_TOKEN, and start again"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
