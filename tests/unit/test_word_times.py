"""Recordings with word times, through the real pipeline: what is said is scripted, the aligner has random weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.align.word_times import WordTimes
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import (
    AlignerMissing,
    CheckpointMismatch,
    OptionInvalid,
    RequestCancelled,
)
from scribewire.engine.protocol.transcript import Transcript, words_text
from scribewire.engine.recording.work import Listener, TranscribeItem
from scribewire.engine.text.words import KOREAN_DICTIONARY
from scribewire.engine.transcriber import Transcriber
from tests.fakes.clips import babbling
from tests.fakes.loading import cpu_profile
from tests.fakes.scripted_model import Script, ScriptedModel
from tests.fakes.tiny_aligner import write_tiny_aligner
from tests.fakes.waiting import PATIENCE_SECONDS, run, wait_until


def noise(seconds: float, name: str = "words") -> np.ndarray:
    return babbling(f"{name}/{int(seconds * 16_000)}", seconds)


def by_length(tokens: int) -> str:
    """A different text for each length, with punctuation to keep."""
    return "language English<asr_text>" + " ".join(f"No. {one}, (please)!" for one in range(tokens % 7 + 2))


def asking(seconds: float, name: str = "words") -> TranscribeItem:
    return TranscribeItem(noise(seconds, name), words=True)


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_aligner(tmp_path_factory.mktemp("aligner"))


def opened(folder: Path, script: Script, aligner: str | Path, **options: object) -> Transcriber:
    return Transcriber(
        config=EngineConfig(device="cpu", aligner=str(aligner), **options),  # type: ignore[arg-type]  # by name
        load=lambda config, _: ScriptedModel(config, folder, script),
    )


@pytest.fixture
def engine(tmp_path: Path, aligner: Path) -> Iterator[Transcriber]:
    with opened(tmp_path, by_length, aligner) as transcriber:
        yield transcriber


def expect_words(transcript: Transcript) -> None:
    """Every segment's words are its text, in order, inside the segment, each of some length."""
    assert transcript.segments
    assert transcript.warnings == ()
    for segment in transcript.segments:
        assert words_text(segment.words) == segment.text
        before = segment.start_seconds
        for word in segment.words:
            assert before - 1e-3 <= word.start_seconds < word.end_seconds <= segment.end_seconds + 1e-3
            before = word.end_seconds


def test_every_segments_words_are_its_text_with_times_inside_it(engine: Transcriber) -> None:
    expect_words(engine.transcribe_item(asking(75.0)))


def test_words_are_an_option_of_the_plain_call_too(engine: Transcriber) -> None:
    plain = engine.transcribe(noise(2.0), words=True)
    expect_words(plain)
    assert run(engine.transcribe_async(noise(2.0), words=True)).segments == plain.segments


def test_words_are_there_only_when_asked_for(engine: Transcriber) -> None:
    transcript = engine.transcribe(noise(3.0))
    assert transcript.segments[0].words == ()
    assert transcript.warnings == ()


def test_words_of_many_recordings_aligned_together_are_those_of_each_alone(
    engine: Transcriber,
) -> None:
    items = [asking(seconds) for seconds in (1.3, 0.4, 9.1, 2.0, 33.0, 4.4, 0.9)]
    together = engine.transcribe_many(items)
    for item, transcript in zip(items, together, strict=True):
        assert transcript.segments == engine.transcribe_item(item).segments
        expect_words(transcript)


def test_the_aligner_is_loaded_when_first_needed_and_once(
    engine: Transcriber, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine.transcribe(noise(1.0))
    assert "is loaded" not in caplog.text
    for _ in range(2):
        engine.transcribe_item(asking(1.0))
    assert caplog.text.count("is loaded") == 1


def test_a_preloaded_aligner_is_there_before_the_first_recording(
    tmp_path: Path, aligner: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with opened(tmp_path, by_length, aligner, preload_aligner=True) as transcriber:
        assert caplog.text.count("is loaded") == 1
        expect_words(transcriber.transcribe_item(asking(2.0)))
    assert caplog.text.count("is loaded") == 1


def test_an_aligner_that_is_to_be_preloaded_and_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(AlignerMissing, match="scribewire pull"):
        opened(tmp_path, by_length, "someone/Aligner", preload_aligner=True, offline=True)


def test_idle_unload_gives_the_aligner_back_too(
    tmp_path: Path, aligner: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with opened(tmp_path, by_length, aligner, idle_unload_seconds=0.05) as transcriber:
        first = transcriber.transcribe_item(asking(2.0))
        wait_until(lambda: not transcriber.is_resident)
        assert transcriber.transcribe_item(asking(2.0)).segments == first.segments
    assert caplog.text.count("is loaded") == 2


# ---- what cannot be timed ------------------------------------------------------------------------------------


def no_words(transcript: Transcript) -> str:
    """The one warning of a transcript whose segments have text and no words."""
    assert transcript.text
    assert all(segment.words == () for segment in transcript.segments)
    [warning] = transcript.warnings
    assert warning.endswith("The times of segments are given")
    return warning


def test_a_language_the_aligner_does_not_know_gets_segment_times_and_says_so(
    tmp_path: Path, aligner: Path
) -> None:
    with opened(tmp_path, lambda _: "language Thai<asr_text>สวัสดี", aligner) as transcriber:
        warning = no_words(transcriber.transcribe_item(asking(70.0)))
    assert warning.startswith("no word times: the aligner does not know Thai; it knows English, Japanese.")


def test_a_recording_in_two_languages_says_how_many_segments_lack_words(
    tmp_path: Path, aligner: Path
) -> None:
    def script(tokens: int) -> str:
        return "language Thai<asr_text>สวัสดี" if tokens > 200 else "language English<asr_text>Hello, you."

    with opened(tmp_path, script, aligner) as transcriber:
        transcript = transcriber.transcribe_item(asking(33.0))
    lengths = [len(segment.words) for segment in transcript.segments]
    assert sorted(lengths) == [0, 2]
    [warning] = transcript.warnings
    assert warning.startswith("no word times for 1 of 2 segments: the aligner does not know Thai")


def test_a_missing_extra_costs_the_words_and_names_itself(
    tmp_path: Path, aligner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_nothing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("scribewire.engine.text.words.importlib.import_module", import_nothing)
    with opened(tmp_path, lambda _: "language Japanese<asr_text>こんにちは。", aligner) as transcriber:
        warning = no_words(transcriber.transcribe_item(asking(3.0)))
    assert "nagisa" in warning
    assert ".[cjk]" in warning


def test_no_aligner_costs_the_words_only(tmp_path: Path) -> None:
    with opened(tmp_path, by_length, "none", preload_aligner=True) as transcriber:
        assert "--aligner none" in no_words(transcriber.transcribe_item(asking(3.0)))


def test_an_aligner_that_is_not_on_disk_is_told_at_once(tmp_path: Path) -> None:
    decoded = []

    def script(tokens: int) -> str:
        decoded.append(tokens)
        return "text"

    with opened(tmp_path, script, "someone/Aligner") as transcriber:
        with pytest.raises(AlignerMissing, match="scribewire pull someone/Aligner"):
            transcriber.transcribe_item(asking(3.0))
        assert decoded == []
        assert transcriber.transcribe(noise(3.0)).text == "text"


def test_words_that_are_optional_are_no_reason_to_fail_and_their_lack_is_told(
    tmp_path: Path, aligner: Path
) -> None:
    item = replace(asking(3.0), words_optional=True)
    with opened(tmp_path, by_length, "someone/Aligner") as transcriber:
        assert "scribewire pull someone/Aligner" in no_words(transcriber.transcribe_item(item))
    with opened(tmp_path, by_length, aligner) as transcriber:
        expect_words(transcriber.transcribe_item(item))
    with opened(tmp_path, by_length, "none") as transcriber:
        transcript = transcriber.transcribe_item(item)
        assert not any(segment.words for segment in transcript.segments)
        assert transcript.warnings == ()  # turned off on purpose


def test_an_aligner_that_vanished_or_cannot_be_read_is_an_error_of_that_recording_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("scribewire.engine.align.word_times.find_aligner", refuse)
    with opened(tmp_path, by_length, tmp_path) as transcriber:
        with pytest.raises(AlignerMissing, match="Permission denied"):
            transcriber.transcribe_item(asking(2.0))
        assert transcriber.transcribe(noise(2.0)).text


def test_a_damaged_aligner_costs_the_words_and_is_tried_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_aligner(tmp_path / "aligner")
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"]["text_config"]["intermediate_size"] += 32
    (folder / "config.json").write_text(json.dumps(config))
    with opened(tmp_path, by_length, folder) as transcriber:
        for _ in range(2):
            assert "could not be loaded" in no_words(transcriber.transcribe_item(asking(3.0)))
        assert not transcriber.is_broken
    assert caplog.text.count("no word times:") == 1


def test_a_recognizer_is_refused_as_an_aligner(tmp_path: Path) -> None:
    folder = write_tiny_aligner(tmp_path / "aligner")
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"]["model_type"] = "qwen3_asr"
    (folder / "config.json").write_text(json.dumps(config))
    with opened(tmp_path, by_length, folder) as transcriber:
        assert "no forced aligner" in no_words(transcriber.transcribe_item(asking(3.0)))
    with pytest.raises(CheckpointMismatch, match="no forced aligner"):
        opened(tmp_path, by_length, folder, preload_aligner=True)


def test_an_aligner_that_memory_has_no_room_for_is_not_loaded(tmp_path: Path, aligner: Path) -> None:
    reserved = []

    def reserve(size_bytes: int) -> None:
        reserved.append(size_bytes)
        raise OptionInvalid("the memory limit is too small", parameter="memory_limit_bytes")

    times = WordTimes(
        EngineConfig(aligner=str(aligner)),
        model="any",
        placement=cpu_profile().placement,
        wake=lambda: None,
        reserve=reserve,
    )
    with pytest.raises(OptionInvalid):
        times.preload()
    assert not times.is_loaded
    assert reserved[0] > sum(file.stat().st_size for file in aligner.glob("*.safetensors")) * 0.9
    times.close()


def test_a_recording_cancelled_on_its_way_leaves_nothing_behind(engine: Transcriber) -> None:
    # Each is cancelled further on its way: one after so many tokens, the last ones after so many words.
    tokens_before, words_before = engine.counters.tokens_done, engine.counters.words_done
    works = [engine.submit(asking(40.0, f"cancelled-{index}")) for index in range(6)]
    endings = set()
    for tokens, words, work in zip((0, 1, 20, 60, 0, 0), (0, 0, 0, 0, 1, 10), works, strict=True):
        wait_until(
            lambda tokens=tokens, words=words, work=work: (
                work.is_over
                or (
                    engine.counters.tokens_done - tokens_before >= tokens
                    and engine.counters.words_done - words_before >= words
                )
            )
        )
        engine.cancel(work)
        endings.add(type(work.future.exception(PATIENCE_SECONDS)))
    assert RequestCancelled in endings
    assert endings <= {RequestCancelled, type(None)}
    expect_words(engine.transcribe_item(asking(3.0)))
    wait_until(lambda: engine.counters.open_recordings == 0)
    assert engine.counters.reserved_tokens == 0


def test_segments_are_passed_on_in_order_with_their_words(engine: Transcriber) -> None:
    heard = []
    transcript = engine.transcribe_item(asking(95.0), listener=Listener(on_segment=heard.append))
    assert tuple(heard) == transcript.segments
    assert transcript.timings.align_seconds > 0
    expect_words(transcript)


def test_a_chunk_decoded_twice_while_it_is_streamed_keeps_its_words(tmp_path: Path, aligner: Path) -> None:
    """A loop cuts the chunk in two; what was sent of the first attempt is one segment with the words of both parts."""

    def script(tokens: int) -> str:
        if tokens > 200:
            return "language English<asr_text>Well, " + "so it goes " * 200
        return "language English<asr_text>Well, so it goes."

    deltas: list[str] = []
    with opened(tmp_path, script, aligner) as transcriber:
        transcript = transcriber.transcribe_item(
            asking(20.0), listener=Listener(on_delta=lambda text, _: deltas.append(text))
        )
    assert "".join(deltas) == transcript.text
    [segment] = transcript.segments
    assert "fell into a loop" in str(segment.notice)
    assert len(segment.words) == 8
    assert words_text(segment.words) == segment.text


@pytest.mark.cjk
def test_japanese_and_korean_words_come_through_the_engine(tmp_path: Path) -> None:
    folder = write_tiny_aligner(tmp_path / "aligner", languages=("Japanese", "Korean"))
    (folder / KOREAN_DICTIONARY).write_text("안녕 10 x\n날씨 10 x\n오늘 10 x\n", encoding="utf-8")
    texts = {"Japanese": "今日は、いい天気ですね。", "Korean": "오늘은 날씨가 좋네요!"}

    def script(tokens: int) -> str:
        language = "Japanese" if tokens > 30 else "Korean"
        return f"language {language}<asr_text>{texts[language]}"

    with opened(tmp_path, script, folder) as transcriber:
        for seconds, language in ((4.0, "Japanese"), (1.5, "Korean")):
            transcript = transcriber.transcribe_item(asking(seconds))
            assert (transcript.language, transcript.text) == (language, texts[language])
            expect_words(transcript)
            assert len(transcript.segments[0].words) >= 3
