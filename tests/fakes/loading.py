"""Models in memory as a CPU has them, for tests that need no engine around them."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from scribewire.engine.checkpoint.load import build_model, read_checkpoint
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.resident.profile import DeviceProfile, profile_of


def cpu_profile(dtype: mx.Dtype = mx.float32) -> DeviceProfile:
    """The CPU's profile."""
    return profile_of("cpu", mx.Device(mx.cpu), dtype)


def load_checkpoint(folder: Path, *, dtype: mx.Dtype) -> SpeechModel:
    """A speech recognizer; raises as `read_checkpoint` and `build_model`."""
    return build_model(read_checkpoint(folder), cpu_profile(dtype).placement)
