"""Bombs and forged headers cost neither memory nor the child; no header is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from scribewire.engine.audio.source import FIRST_CHECK_SECONDS, SparseWatch
from scribewire.engine.audio.transcode import open_audio, transcode_audio
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import AudioTooLong
from tests.fakes.served import demo_server
from tools.hostile.bombs import BOMBS, bomb, constant_flac
from tools.hostile.campaign import AUDIO_ERROR_CODES, MAX_RESIDENT_BYTES
from tools.hostile.child_under_test import SUCCESS, ChildUnderTest
from tools.hostile.explosions import MAX_GROWTH_BYTES, explode
from tools.hostile.forged_headers import forged_headers


@pytest.mark.process
def test_forged_headers_are_refused_or_decoded_and_kill_no_child(tmp_path: Path):
    with ChildUnderTest(tmp_path) as child:
        for name, content in forged_headers().items():
            outcome = child.decode(content)
            assert outcome.name == SUCCESS or outcome.name in AUDIO_ERROR_CODES, (name, outcome)
            # Whatever they claim: the most that any of them holds is two minutes, of a codec with few bits.
            assert outcome.sample_count < 300 * 16_000, (name, outcome)
        assert child.record.children == 1
        assert child.record.peak_resident_bytes < MAX_RESIDENT_BYTES


@pytest.mark.process
@pytest.mark.parametrize("kind", BOMBS)
def test_bomb_makes_the_child_grow_by_less_than_100_mb(tmp_path: Path, kind: str):
    with ChildUnderTest(tmp_path, hang_seconds=60.0) as child:
        child.start()
        outcome = child.decode(bomb(kind).content, limits=AudioLimits(max_duration_seconds=3600))
        assert outcome.name == ("audio_parameters_unsupported" if kind == "wav" else "audio_too_long")
        growth = child.record.peak_resident_bytes - child.record.idle_resident_bytes
        assert 0 <= growth < MAX_GROWTH_BYTES
        assert child.record.children == 1


@pytest.mark.process
def test_bombs_are_400_over_http_and_no_process_grows_by_100_mb(tmp_path: Path):
    with demo_server(tmp_path / "data", max_duration_seconds=3600) as served:
        findings = explode(served)
    assert findings.broken == []
    assert len(findings.measured) == len(BOMBS)


def decoded_seconds_before_refusal(content: bytes, limit_seconds: float) -> float:
    with open_audio(content, limits=AudioLimits(max_duration_seconds=limit_seconds)) as stream:
        with pytest.raises(AudioTooLong):
            for _ in stream.blocks():
                pass
        return stream.duration_seconds


@pytest.mark.parametrize("kind", ["flac", "opus", "lying-flac"])
def test_file_of_next_to_no_bytes_is_counted_before_it_is_decoded(kind: str):
    seconds = decoded_seconds_before_refusal(bomb(kind).content, 3 * 3600)
    assert seconds < 2 * FIRST_CHECK_SECONDS


def test_file_of_next_to_no_bytes_within_the_limit_is_decoded_to_its_end():
    content = constant_flac(rate_hz=8_000, seconds=600, claimed_seconds=600)
    audio = transcode_audio(content, limits=AudioLimits(max_duration_seconds=601))
    assert audio.duration_seconds == pytest.approx(600, abs=8.2)
    assert not audio.samples.any()


def test_watch_finds_the_quiet_part_of_a_file_that_begins_in_good_order():
    watch = SparseWatch()
    found = []
    for second in range(1, 2_000):
        watch.add_packet(2_000 if second < 300 else 10)
        found.append(watch.finds_sparse(float(second)))
    assert found.count(True) == 1
    assert found.index(True) < 1_000


def test_watch_leaves_ordinary_speech_alone():
    watch = SparseWatch()
    for second in range(1, 10_000):
        watch.add_packet(700)
        assert not watch.finds_sparse(float(second))
