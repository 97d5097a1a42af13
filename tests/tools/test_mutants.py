"""A short sample of the 20,000 mutants; `make hostile` runs them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from scribewire.engine.protocol.transcoding import TranscodeLimits
from tests.fakes.media_files import recording
from tests.fakes.served import Served
from tests.fakes.waiting import PATIENCE_SECONDS
from tools.hostile.campaign import decode_mutants, post_mutants
from tools.hostile.child_under_test import CRASH, HANG, SUCCESS, ChildUnderTest

pytestmark = pytest.mark.process


def test_mutants_end_in_a_transcript_or_an_error_of_the_recording_and_kill_no_child(tmp_path: Path):
    # Not the first ones, which are tried during development.
    result = decode_mutants(tmp_path, range(100_000, 100_280))
    assert result.failures == []
    assert result.mutants == 280
    assert result.children == 1
    assert result.outcomes[SUCCESS] > 50
    assert sum(result.outcomes.values()) - result.outcomes[SUCCESS] > 50


def test_mutants_over_http_are_answered_200_or_400(tmp_path: Path):
    with Served(tmp_path / "data") as served:
        result = post_mutants(served.url, range(200_000, 200_042))
        assert result.failures == []
        assert set(result.outcomes) == {"200", "400"}
        assert served.failures_in_log() == []
        assert served.leftovers() == []


def test_crash_and_hang_would_be_noticed(tmp_path: Path):
    """The judge itself: a child that is killed by its own limits, and one that is given no time."""
    with ChildUnderTest(tmp_path, limits=TranscodeLimits(memory_bytes=1 << 20)) as child:
        assert child.decode(recording("mp4-video") + bytes(1 << 20)).name in (CRASH, "audio_undecodable")
    with ChildUnderTest(tmp_path, hang_seconds=0.0) as child:
        assert child.decode(recording("mp3")).name == HANG
        assert child.record.children == 1
        assert child.decode(recording("mp3")).name == HANG
        assert child.record.children == 2


def test_killed_child_is_a_crash_and_the_next_file_gets_another(tmp_path: Path):
    fifo_free = recording("wav-s16")
    with ChildUnderTest(tmp_path) as child:
        assert child.decode(fifo_free).name == SUCCESS
        assert child._handle is not None
        child._handle.kill()
        assert child._handle.wait(PATIENCE_SECONDS)
        assert child.decode(fifo_free).name == CRASH
        assert child.decode(fifo_free).name == SUCCESS
        assert child.record.children == 2
