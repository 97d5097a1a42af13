"""The bundled demo model: where it is, and two recordings to try it on.

Standard library only: the server and the command line ask here for paths before anything heavy is loaded. The recipe
that made the model (`tools.demo_model`) is never imported from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEMO_MODEL_NAME = "demo"
_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class SampleRecording:
    """A synthetic recording that ships with the project, and what is said in it."""

    path: Path
    language: str
    reference: str


def demo_model_path() -> Path:
    """Folder of the bundled 8-bit checkpoint (config.json, model.safetensors, tokenizer files)."""
    return _FOLDER / "model"


def demo_aligner_path() -> Path:
    """Folder of the bundled forced aligner, in the same form."""
    return _FOLDER / "aligner"


def model_card_path() -> Path:
    """The page that says what the demo model is and is not."""
    return _FOLDER / "MODEL_CARD.md"


def sample_recordings() -> tuple[SampleRecording, ...]:
    """The shipped recordings, English first; mono 16 kHz WAV, the reference text beside each."""
    return tuple(
        SampleRecording(path, language, path.with_suffix(".txt").read_text(encoding="utf-8").strip())
        for path, language in (
            (_FOLDER / "recordings" / "english.wav", "English"),
            (_FOLDER / "recordings" / "spanish.wav", "Spanish"),
        )
    )
