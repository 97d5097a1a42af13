"""The hostile files are what they claim to be: valid before they are damaged, the same at every run, real bombs."""

from __future__ import annotations

from collections import Counter

import pytest

from scribewire.engine.audio.transcode import open_audio, transcode_audio
from tests.fakes import media_files
from tests.fakes.media import LIMITS, aligned, tones
from tests.fakes.media_files import FORMATS, SECONDS, recording
from tools.hostile.bombs import BOMBS, bomb
from tools.hostile.forged_headers import forged_headers
from tools.hostile.mutations import OPERATORS, mend_ogg_checksums, mutant, mutant_number


@pytest.mark.parametrize("kind", FORMATS)
def test_undamaged_file_of_every_format_decodes_to_what_was_encoded(kind: str):
    audio = transcode_audio(recording(kind), limits=LIMITS)
    assert abs(audio.duration_seconds - SECONDS) < 0.06
    assert audio.warnings == ()
    assert aligned(audio.samples, tones(SECONDS, 16_000)) > 0.95


@pytest.mark.parametrize("kind", FORMATS)
def test_file_of_a_format_is_the_same_at_every_call(kind: str):
    assert media_files._MAKERS[kind]() == recording(kind)


def test_mutant_is_made_again_from_its_format_and_seed():
    for number in (0, 17, 4_711, 19_999):
        first = mutant_number(number)
        assert mutant(first.kind, first.seed) == first
        assert first.operators


def test_mutants_are_damaged_differ_and_use_every_operator():
    mutants = [mutant_number(number) for number in range(1_400)]
    assert Counter(one.kind for one in mutants) == dict.fromkeys(FORMATS, 100)
    assert len({one.content for one in mutants}) > 1_300
    assert sum(one.content != recording(one.kind) for one in mutants) > 1_300
    assert {name for one in mutants for name in one.operators} == set(OPERATORS)


def test_ogg_checksum_is_the_one_that_the_muxer_writes():
    for kind in ("ogg-opus", "ogg-vorbis"):
        mended = bytearray(recording(kind))
        mended[22:26] = b"\x00\x00\x00\x00"
        mend_ogg_checksums(mended)
        assert bytes(mended) == recording(kind)


@pytest.mark.parametrize(
    ("kind", "size", "hours"),
    [("wav", 39_000, 10), ("flac", 56_000, 4), ("opus", 2_000_000, 20), ("lying-flac", 263_000, 40)],
)
def test_bomb_is_as_small_and_as_long_as_it_is_said_to_be(kind: str, size: int, hours: float):
    assert abs(len(bomb(kind).content) - size) < 0.03 * size
    assert bomb(kind).hours >= hours


@pytest.mark.parametrize("kind", sorted(set(BOMBS) - {"wav"}))
def test_bomb_really_decodes(kind: str):
    """Its first ten seconds; the WAV is refused for its rate before a sample of it is decoded."""
    count = 0
    with open_audio(bomb(kind).content, limits=LIMITS) as stream:
        for block in stream.blocks():
            assert abs(block).max() < 1e-3
            count += len(block)
            if count > 160_000:
                break
    assert count > 160_000


def test_bomb_that_claims_a_second_claims_a_second():
    with open_audio(bomb("lying-flac").content, limits=LIMITS) as stream:
        assert stream.declared_duration_seconds == 1.0


def test_forged_headers_are_many_and_none_is_the_original():
    forged = forged_headers()
    originals = {recording(kind) for kind in FORMATS}
    assert len(forged) > 200
    assert not originals & set(forged.values())
