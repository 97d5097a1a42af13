"""Pools of decode children for tests, and waiting for what becomes of them without fixed sleeps."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from scribewire.server.transcode.pool import TranscodePool
from tests.fakes.media import riff

SHORT = riff(bytes(32_000))
RATE = 16_000


@contextlib.asynccontextmanager
async def pool_of(**options: Any) -> AsyncIterator[TranscodePool]:
    pool = TranscodePool(**{"processes": 1, **options})
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()
        assert pool.process_ids == []


def upload(folder: Path, recording: bytes | Path, name: str = "a") -> Path:
    """A recording in a folder of its own, as uploads lie."""
    (folder / name).mkdir()
    path = folder / name / "recording"
    if isinstance(recording, Path):
        path.hardlink_to(recording)
    else:
        path.write_bytes(recording)
    return path


def samples_beside(path: Path) -> list[Path]:
    return [one for one in path.parent.iterdir() if one != path]
