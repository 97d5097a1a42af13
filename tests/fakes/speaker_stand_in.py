"""A speaker child with a stand-in for the pipeline: real annotations of pyannote.core, no model.

A recording that is a script (JSON, as the fake worker's) says who speaks when:

    turns: [[start, end, label], ...]       voices: {label: [numbers]}, else the pipeline gives no embeddings
    speakers: "dies" | "hangs" | "fails" | "waits" (takes long, and leaves when asked)

A reference is a script with one voice: {"voice": [numbers]}. Any other recording is samples of tones: each pitch is a
speaker, silence is none; this shows that the samples that the decoder wrote are those that arrive. A configured model
of the name `no-terms` or `no-extra` cannot be loaded, for the reason that its name says.
"""

from __future__ import annotations

import json
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from pyannote.core import Annotation, Segment

from scribewire.engine.protocol.speakers import DiarizationConfig
from scribewire.engine.speakers import child
from scribewire.engine.speakers.child import OnStep, PipelineUnavailable
from scribewire.engine.speakers.labels import PipelineOutput

RATE = 16_000
WINDOW = 1_600
PITCHES = (200, 400, 800, 1600)
MODULE = "tests.fakes.speaker_stand_in"


def main(config: DiarizationConfig, pipe: Connection) -> int:
    """Run the child, as the launcher does."""
    return child.serve(config, pipe, load=load)


def load(config: DiarizationConfig) -> StandIn:
    """Load a pipeline, or refuse to, as the script says."""
    if config.model == "no-extra":
        child.PIPELINE_MODULE = "tests.no_such_module"
        child.load_pyannote(config)
    if config.model == "no-terms":
        raise PipelineUnavailable("the model asks for accepted terms\nand a token")
    if config.model == "dies":
        os._exit(3)
    return StandIn()


class StandIn:
    """A SpeakerPipeline."""

    device = "cpu"

    def find(
        self, samples_path: str, *, on_step: OnStep, num_speakers: int | None, **_: Any
    ) -> PipelineOutput:
        """Speaker turns from the script, or from the pitches in the recording."""
        data = Path(samples_path).read_bytes()
        on_step("segmentation", 0.5)
        if data.startswith(b"{"):
            return scripted(json.loads(data), on_step)
        return hummed(np.frombuffer(data, "<f4"))


def scripted(script: dict[str, Any], on_step: OnStep) -> PipelineOutput:
    """An annotation as a script has it."""
    match script.get("speakers"):
        case "dies":
            print("last words", flush=True)
            os._exit(3)
        case "hangs":
            time.sleep(3600)
        case "fails":
            raise ValueError("no such luck")
        case "waits":
            while True:
                time.sleep(0.02)
                on_step("embeddings", 0.5)
    if "voice" in script:
        annotation = Annotation(uri="reference")
        annotation[Segment(0.0, 2.0), "t"] = "SPEAKER_00"
        return PipelineOutput(annotation, embeddings=np.array([script["voice"]], dtype=np.float32))
    annotation = Annotation(uri="recording")
    for track, (start, end, label) in enumerate(script.get("turns", [])):
        annotation[Segment(start, end), track] = label
    voices = script.get("voices")
    embeddings = None if voices is None else np.array([voices[label] for label in annotation.labels()])
    return PipelineOutput(annotation, embeddings=embeddings)


def hummed(samples: np.ndarray) -> PipelineOutput:
    """Each pitch is a speaker, whose voice is the pitch."""
    annotation = Annotation(uri="recording")
    for index in range(len(samples) // WINDOW):
        window = samples[index * WINDOW : (index + 1) * WINDOW]
        if np.abs(window).max() < 0.01:
            continue
        hertz = np.count_nonzero(np.diff(np.signbit(window))) / 2 * RATE / WINDOW
        pitch = min(PITCHES, key=lambda one: abs(one - hertz))
        annotation[Segment(index * WINDOW / RATE, (index + 1) * WINDOW / RATE), index] = f"{pitch:05}"
    annotation = annotation.support()
    voices = [[float(pitch == int(label)) for pitch in PITCHES] for label in annotation.labels()]
    return PipelineOutput(
        annotation, exclusive=annotation, embeddings=np.array(voices).reshape(-1, len(PITCHES))
    )
