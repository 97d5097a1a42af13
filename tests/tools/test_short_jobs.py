"""The measurement of short jobs behind long ones: what it says, and when it is not content."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path

import pytest

from tools.hostile import short_jobs

RESULTS = Path(short_jobs.__file__).parent / "results"


@pytest.mark.parametrize("seconds", [0.5, 4.0, 20.0])
def test_speech_is_as_long_as_asked_for(seconds: float) -> None:
    with wave.open(io.BytesIO(short_jobs.speech(seconds))) as recording:
        assert recording.getnframes() / recording.getframerate() == seconds


@pytest.mark.parametrize("name", ["short_jobs_before.json", "short_jobs.json"])
def test_results_name_every_ratio_beyond_the_aim(name: str) -> None:
    result = json.loads((RESULTS / name).read_text())
    ratios = [result["measured"][f"behind_{count}"]["times_idle"] for count in (1, short_jobs.AS_MANY_AS_RUN)]
    assert len(result["broken"]) == sum(ratio > short_jobs.MOST_TIMES_IDLE for ratio in ratios)
