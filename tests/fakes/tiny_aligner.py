"""A whole small aligner folder with random weights: loads and runs like a published one, and times words at random."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.random_model import ALIGNER, write_checkpoint
from tests.fakes.tiny_model import write_tokenizer


def write_tiny_aligner(folder: Path, *, languages: tuple[str, ...] = ("English", "Japanese")) -> Path:
    """A folder that `--aligner` accepts."""
    write_checkpoint(folder, ALIGNER, "mlx")
    write_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"support_languages": languages}))
    return folder
