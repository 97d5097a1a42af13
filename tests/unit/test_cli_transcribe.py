"""`scribewire transcribe` against a transcriber with no model: options, text as it is decoded, failures."""

import io
import json
import logging
from pathlib import Path

import pytest

from scribewire.engine.cli.results import Paragraphs
from scribewire.engine.protocol.config import Chunking
from scribewire.engine.protocol.transcript import Segment
from scribewire.engine.recording.work import Listener, TranscribeItem
from tests.fakes.fake_transcriber import STOP, FakeTranscriber, FakeWork
from tests.fakes.transcribe_command import Run, Terminal, write_recordings


def asked_words(run: Run) -> tuple[bool, bool]:
    """Whether words were asked for, and whether it does without them."""
    item = run.engine.heard[0][1]
    return item.words, item.words_optional


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_recordings(tmp_path)


def test_words_come_with_json_and_load_the_aligner(recordings: Path) -> None:
    run = Run(recordings / "one.wav", "-f", "json", "--words")
    assert [word["word"] for word in json.loads(run.stdout)["words"]] == ["First", "words."]
    assert (run.exit_code, run.config.aligner, run.fetches_aligner) == (0, "auto", True)
    assert Run(recordings / "one.wav", "-f", "json", "--words", "--aligner", "x/y").config.aligner == "x/y"
    plain = Run(recordings / "one.wav", "-f", "json", "--aligner", "x/y")
    assert not plain.fetches_aligner
    assert "words" not in json.loads(plain.stdout)


def test_words_without_a_format_that_shows_them_are_refused(recordings: Path) -> None:
    run = Run(recordings / "one.wav", "--words")
    assert (run.exit_code, run.stdout) == (2, "")
    assert "-f json" in run.stderr
    assert run.engine.load_count == 0


def test_text_of_one_file_stands_alone_on_stdout(recordings: Path) -> None:
    run = Run(recordings / "one.wav")
    assert (run.exit_code, run.stdout, run.stderr) == (0, "First words.\n", "")


def test_texts_of_several_files_stand_under_their_names(recordings: Path) -> None:
    one, two = recordings / "one.wav", recordings / "two.wav"
    run = Run(one, two)
    assert run.stdout == f"==> {one} <==\nFirst words.\n\n==> {two} <==\nSecond words.\n"
    assert run.engine.load_count == 1


def test_json_is_one_document_a_line(recordings: Path) -> None:
    run = Run("-f", "json", recordings / "one.wav", recordings / "two.wav")
    documents = [json.loads(line) for line in run.stdout.splitlines()]
    assert [document["text"] for document in documents] == ["First words.", "Second words."]
    assert documents[0]["file"] == str(recordings / "one.wav")
    assert documents[0]["language"] == "english"
    assert documents[0]["segments"][0]["end"] == 2.0
    assert (documents[0]["model"], documents[0]["is_demo"]) == ("fake", False)


def test_name_that_the_system_refuses_costs_the_others_nothing(recordings: Path) -> None:
    name = "x" * 300 + ".wav"
    run = Run(name, recordings / "one.wav")
    assert (run.exit_code, run.stderr) == (1, f"scribewire: {name}: file name too long\n")
    assert "First words." in run.stdout


def test_file_that_fails_is_one_line_and_the_others_are_done(recordings: Path) -> None:
    bad = recordings / "bad.wav"
    run = Run(bad, recordings / "one.wav", recordings / "oom.wav", recordings / "two.wav")
    assert run.exit_code == 1
    assert "First words." in run.stdout
    assert "Second words." in run.stdout
    lines = run.stderr.splitlines()
    assert lines[0] == f"scribewire: {bad}: no audio could be decoded"
    assert "failed unexpectedly (RuntimeError: [metal] out of memory)" in lines[1]
    assert len(lines) == 2


def test_traceback_is_shown_when_asked_for(recordings: Path) -> None:
    assert "Traceback" in Run("--traceback", recordings / "oom.wav").stderr


def test_missing_file_fails_without_loading_a_model(tmp_path: Path) -> None:
    run = Run(tmp_path / "none.wav")
    assert run.exit_code == 1
    assert run.stderr == f"scribewire: {tmp_path / 'none.wav'}: no such file\n"
    assert run.engine.load_count == 0


def test_missing_file_among_others_is_one_line(recordings: Path) -> None:
    run = Run(recordings / "none.wav", recordings / "one.wav")
    assert run.exit_code == 1
    assert run.stderr.count("\n") == 1
    assert "First words." in run.stdout


def test_warning_of_a_transcript_goes_to_stderr_and_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"cut short")
    run = Run(tmp_path / "a.wav")
    assert run.exit_code == 0
    assert "warning: it was cut off" in run.stderr


def test_demo_model_says_once_what_it_is(recordings: Path) -> None:
    run = Run(recordings / "one.wav", recordings / "two.wav", engine=FakeTranscriber(is_demo=True))
    assert run.stderr.count("demo model") == 1
    assert "synthetic speech" in run.stderr


def test_options_reach_the_engine(recordings: Path) -> None:
    run = Run(
        recordings / "one.wav",
        *("--language", "es", "--prompt", "Ana", "--temperature", "0.5", "--seed", "7"),
    )
    heard = run.engine.heard[0][1]
    assert heard == TranscribeItem(
        recordings / "one.wav", language="es", prompt="Ana", temperature=0.5, seed=7, chunking=Chunking()
    )


def test_voice_detection_and_lengths_of_chunks_reach_the_engine(recordings: Path) -> None:
    run = Run(recordings / "one.wav", "--vad", "--max-chunk-seconds", "20", "--min-chunk-seconds", "5")
    assert run.engine.heard[0][1].chunking == Chunking("voice")
    assert (run.config.max_chunk_seconds, run.config.min_chunk_seconds) == (20.0, 5.0)
    run = Run(recordings / "one.wav", "--vad", "--vad-threshold", "0.8")
    assert run.engine.heard[0][1].chunking == Chunking("voice", threshold=0.8)


def test_json_has_log_probabilities(recordings: Path) -> None:
    assert Run(recordings / "one.wav", "-f", "json").engine.heard[0][1].logprobs is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-chunk-seconds", "1"], "--max-chunk-seconds must be from 2 to 180"),
        (["--max-chunk-seconds", "nan"], "--max-chunk-seconds must be from 2 to 180"),
        (["--min-chunk-seconds", "30"], "--min-chunk-seconds must be below"),
        (["--vad", "--vad-threshold", "2"], "threshold must be a number from 0 to 1"),
        (["--temperature", "nan"], "temperature must be a number from 0 to 1"),
        (["--temperature", "9"], "temperature must be a number from 0 to 1"),
        (["--language", "Spanisch"], "unknown language"),
        (["--seed", "-1"], "seed must be"),
        (["-", "-"], "read only once"),
    ],
)
def test_senseless_option_is_one_line_before_anything_is_loaded(
    recordings: Path, options: list[str], words: str
) -> None:
    run = Run(recordings / "one.wav", *options)
    assert run.exit_code == 2
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.engine.load_count == 0


def test_interruption_ends_with_one_line_and_code_130(recordings: Path) -> None:
    run = Run(recordings / "one.wav", recordings / "stop.wav", recordings / "two.wav")
    assert (run.exit_code, run.stderr) == (130, "scribewire: interrupted\n")
    assert "Second" not in run.stdout


def test_standard_input_is_read_with_a_dash() -> None:
    run = Run("-", stdin=b"Piped words.")
    assert (run.exit_code, run.stdout) == (0, "Piped words.\n")


def test_empty_standard_input_is_an_error_that_says_how() -> None:
    run = Run("-")
    assert run.exit_code == 1
    assert "standard input: no recording came" in run.stderr


def test_progress_is_shown_on_a_terminal_only(recordings: Path) -> None:
    assert "one.wav" not in Run(recordings / "one.wav").stderr
    shown = Run(recordings / "one.wav", stderr=Terminal()).stderr
    assert "1/2 s of audio" in shown
    assert "\n" not in shown
    assert shown.endswith("\r")  # the bar is removed when it is done
    assert Run(recordings / "none.wav", recordings / "bad.wav", stderr=Terminal()).stderr.count("\n") == 2


def test_subtitles_take_word_times_where_an_aligner_is_there_and_fetch_none(recordings: Path) -> None:
    run = Run("-f", "srt", recordings / "one.wav")
    assert asked_words(run) == (True, True)
    assert not run.fetches_aligner
    run = Run("-f", "all", "--words", "-o", recordings, recordings / "one.wav")
    assert asked_words(run) == (True, False)
    assert run.fetches_aligner
    run = Run("-f", "json", recordings / "one.wav")
    assert asked_words(run) == (False, False)


# ---- text while it is decoded --------------------------------------------------------------------------------


class Written(io.StringIO):
    """A stream that remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def test_text_is_written_as_it_comes_in_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"One two.\n+Three.\nFour five.")
    run = Run(tmp_path / "a.wav", stdout=(out := Written()))
    assert run.stdout == "One two. Three.\n\nFour five.\n"
    assert [text for text in out.writes if text] == ["One", " two.", " Three.", "\n\nFour", " five.", "\n"]
    Run("-o", tmp_path, tmp_path / "a.wav")
    assert (tmp_path / "a.txt").read_text() == run.stdout


def test_long_paragraph_ends_with_a_sentence() -> None:
    long, places = "word " * 200, Paragraphs()
    places.add(Segment(0, 0.0, 30.0, long, "English"))
    assert not places.begins_at(30.0)
    places.add(Segment(1, 30.0, 60.0, long + "end.", "English"))
    assert places.begins_at(60.0)
    places.add(Segment(2, 60.0, 70.0, "Short.", "English"))
    assert not places.begins_at(70.0)


def test_text_with_speakers_and_other_formats_come_whole(recordings: Path) -> None:
    run = Run("-f", "srt", recordings / "one.wav", stdout=(out := Written()))
    assert out.writes == [run.stdout]


def test_interrupted_text_stands_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"One two.\nThree." + STOP.encode())
    run = Run(tmp_path / "a.wav", tmp_path / "a.wav")
    assert run.exit_code == 130
    assert run.stdout == f"==> {tmp_path / 'a.wav'} <==\nOne two.\n\nThree.\n"
    assert run.stderr == f"scribewire: {tmp_path / 'a.wav'}: interrupted at 0:06 of 0:02\n"


def test_interrupted_result_is_kept_under_a_name_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"One two." + STOP.encode())
    run = Run("-f", "srt,json", "-o", tmp_path, tmp_path / "a.wav")
    assert (run.exit_code, run.stdout) == (130, "")
    partial = [tmp_path / "a.partial.srt", tmp_path / "a.partial.json"]
    assert f"what is there is in {partial[0]} and {partial[1]}" in run.stderr
    assert "One two." in partial[0].read_text()
    assert json.loads(partial[1].read_text())["warnings"] == ["interrupted at 0:02 of 0:02"]
    assert not (tmp_path / "a.srt").exists()
    run = Run("-f", "srt", tmp_path / "a.wav")
    assert (run.exit_code, run.stdout) == (130, partial[0].read_text())


def test_warnings_that_the_engine_logs_are_messages(recordings: Path) -> None:
    class Logging(FakeTranscriber):
        """A transcriber that logs a warning."""

        def submit(self, item: TranscribeItem, *, listener: Listener) -> FakeWork:
            logging.getLogger("scribewire.engine.x").warning("no word times: %s", "lost")
            return super().submit(item, listener=listener)

    run = Run(recordings / "one.wav", engine=Logging())
    assert run.stderr == "scribewire: no word times: lost\n"
