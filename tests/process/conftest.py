"""Recordings that keep a decode child busy for seconds, made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.media import encoded, tones
from tests.process.pools import RATE


@pytest.fixture(scope="session")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hours of mp3 in 11 MB: seconds of work for a child."""
    one = encoded(
        "mp3",
        "libmp3lame",
        tones(20, RATE),
        options={"write_xing": "0", "id3v2_version": "0"},
        codec_options={"b": "8000"},
    )
    path = tmp_path_factory.mktemp("long") / "recording"
    path.write_bytes(one * (3 * 3600 // 20))
    return path


@pytest.fixture(scope="session")
def endless(long_recording: Path) -> Path:
    """Nearly twelve hours: more work than any test waits for."""
    path = long_recording.with_name("endless")
    path.write_bytes(long_recording.read_bytes() * 4)
    os.truncate(path, long_recording.stat().st_size * 119 // 30)
    return path


@pytest.fixture(scope="session")
def hour(long_recording: Path) -> Path:
    """The first hour of the long recording."""
    path = long_recording.with_name("hour")
    path.write_bytes(long_recording.read_bytes()[: long_recording.stat().st_size // 3])
    return path
