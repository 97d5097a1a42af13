"""`scribewire transcribe` against a transcriber with no model."""

import io
import json
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from scribewire.engine.cli import main
from scribewire.engine.cli.console import Console
from scribewire.engine.protocol.config import Chunking, EngineConfig
from scribewire.engine.protocol.whole_file import output_names, write_whole
from tests.fakes.fake_transcriber import FakeTranscriber


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Run:
    """One run of the command and what came of it."""

    def __init__(
        self,
        *arguments: object,
        stdin: bytes = b"",
        engine: FakeTranscriber | None = None,
        stderr: io.StringIO | None = None,
        stdout: io.StringIO | None = None,
    ) -> None:
        self.engine = engine or FakeTranscriber()
        out, err = stdout or io.StringIO(), stderr or io.StringIO()
        self.exit_code = main(
            ["transcribe", *map(str, arguments)],
            console=Console(io.BytesIO(stdin), out, err),
            load=self.load,
        )
        self.stdout, self.stderr = out.getvalue(), err.getvalue()

    def load(
        self, config: EngineConfig, console: Console, fetches_aligner: bool
    ) -> AbstractContextManager[FakeTranscriber]:
        """Stand for loading what was asked for."""
        self.config, self.fetches_aligner = config, fetches_aligner
        return self.engine.load()


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for name, content in {
        "one.wav": b"First words.",
        "two.wav": b"Second words.",
        "bad.wav": b"fails",
        "oom.wav": b"breaks",
        "stop.wav": b"interrupted",
    }.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_words_come_with_json_and_load_the_aligner(recordings: Path) -> None:
    run = Run(recordings / "one.wav", "-f", "json", "--words")
    [segment] = json.loads(run.stdout)["segments"]
    assert [word["text"] for word in segment["words"]] == ["First", "words."]
    assert (run.exit_code, run.config.aligner, run.fetches_aligner) == (0, "auto", True)
    assert Run(recordings / "one.wav", "-f", "json", "--words", "--aligner", "x/y").config.aligner == "x/y"
    plain = Run(recordings / "one.wav", "-f", "json", "--aligner", "x/y")
    assert not plain.fetches_aligner
    assert json.loads(plain.stdout)["segments"][0]["words"] == []


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
    assert documents[0]["language"] == "English"
    assert documents[0]["segments"][0]["end_seconds"] == 2.0
    assert documents[0]["is_demo"] is False
    assert "tokens" not in documents[0]["segments"][0]


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
    assert run.engine.heard[0][1] == {
        "language": "es",
        "prompt": "Ana",
        "temperature": 0.5,
        "seed": 7,
        "words": False,
        "words_optional": False,
        "logprobs": False,
        "chunking": Chunking(),
    }


def test_voice_detection_and_lengths_of_chunks_reach_the_engine(recordings: Path) -> None:
    run = Run(recordings / "one.wav", "--vad", "--max-chunk-seconds", "20", "--min-chunk-seconds", "5")
    assert run.engine.heard[0][1]["chunking"] == Chunking("voice")
    assert (run.config.max_chunk_seconds, run.config.min_chunk_seconds) == (20.0, 5.0)
    run = Run(recordings / "one.wav", "--vad", "--vad-threshold", "0.8")
    assert run.engine.heard[0][1]["chunking"] == Chunking("voice", threshold=0.8)


def test_json_has_log_probabilities(recordings: Path) -> None:
    assert Run(recordings / "one.wav", "-f", "json").engine.heard[0][1]["logprobs"] is True


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


# ---- subtitles -----------------------------------------------------------------------------------------------

# By the times of the words, which say more than those of the segment.
SUBTITLES = {
    "srt": "1\n00:00:00,500 --> 00:00:01,500\nFirst words.\n",
    "vtt": "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nFirst words.\n",
    "tsv": "start\tend\ttext\n500\t1500\tFirst words.\n",
    "lrc": "[00:00.50]First words.\n[00:01.50]\n",
}


@pytest.mark.parametrize("form", SUBTITLES)
def test_subtitles_of_one_file_are_the_whole_of_stdout(recordings: Path, form: str) -> None:
    run = Run("-f", form, recordings / "one.wav")
    assert (run.exit_code, run.stdout, run.stderr) == (0, SUBTITLES[form], "")


def test_subtitles_take_word_times_where_an_aligner_is_there_and_fetch_none(recordings: Path) -> None:
    run = Run("-f", "srt", recordings / "one.wav")
    assert run.engine.heard[0][1] | {"words": True, "words_optional": True} == run.engine.heard[0][1]
    assert not run.fetches_aligner
    run = Run("-f", "all", "--words", "-o", recordings, recordings / "one.wav")
    assert run.engine.heard[0][1] | {"words": True, "words_optional": False} == run.engine.heard[0][1]
    assert run.fetches_aligner
    run = Run("-f", "json", recordings / "one.wav")
    assert run.engine.heard[0][1] | {"words": False, "words_optional": False} == run.engine.heard[0][1]


def test_subtitles_of_several_files_need_a_folder(recordings: Path) -> None:
    run = Run("-f", "srt", recordings / "one.wav", recordings / "two.wav")
    assert (run.exit_code, run.engine.load_count) == (2, 0)
    assert "add -o DIR" in run.stderr
    run = Run("-f", "srt", "-o", recordings, recordings / "one.wav", recordings / "two.wav")
    assert run.exit_code == 0
    assert (recordings / "one.srt").read_text() == SUBTITLES["srt"]
    assert "Second words." in (recordings / "two.srt").read_text()


def test_all_formats_lie_beside_each_other_in_this_folder_or_in_another(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recordings / "here").mkdir()
    monkeypatch.chdir(recordings / "here")
    wanted = ["one.txt", "one.json", *(f"one.{form}" for form in SUBTITLES)]
    run = Run("-f", "all", recordings / "one.wav")
    assert run.stdout.splitlines() == wanted
    for folder in (recordings / "here", recordings / "there"):
        assert {path.name for path in folder.iterdir()} == set(wanted)
        assert all((folder / f"one.{form}").read_text() == text for form, text in SUBTITLES.items())
        assert (folder / "one.txt").read_text() == "First words.\n"
        document = json.loads((folder / "one.json").read_text())
        assert document["cues"] == [{"start": 0.5, "end": 1.5, "text": "First words."}]
        Run("-f", "all", "-o", recordings / "there", recordings / "one.wav")


def test_none_of_all_formats_is_written_when_one_would_overwrite_an_input(recordings: Path) -> None:
    (recordings / "two.vtt").write_bytes(b"precious")
    run = Run("-f", "all", "-o", recordings, recordings / "two.vtt")
    assert run.exit_code == 1
    assert not (recordings / "two.txt").exists()
    assert (recordings / "two.vtt").read_bytes() == b"precious"


# ---- into a folder -------------------------------------------------------------------------------------------


def test_results_go_into_a_folder_that_is_made(recordings: Path) -> None:
    folder = recordings / "new" / "texts"
    run = Run("-o", folder, recordings / "one.wav", recordings / "two.wav")
    assert run.exit_code == 0
    assert run.stdout.splitlines() == [str(folder / "one.txt"), str(folder / "two.txt")]
    assert (folder / "one.txt").read_text() == "First words.\n"
    assert sorted(path.name for path in folder.iterdir()) == ["one.txt", "two.txt"]


def test_json_in_a_folder_is_a_document_of_its_own(recordings: Path) -> None:
    Run("-f", "json", "-o", recordings / "out", recordings / "one.wav")
    assert json.loads((recordings / "out" / "one.json").read_text())["text"] == "First words."


def test_input_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "talk.txt").write_bytes(b"precious")
    run = Run("-o", tmp_path, tmp_path / "talk.txt")
    assert run.exit_code == 1
    assert "would overwrite the input" in run.stderr
    assert (tmp_path / "talk.txt").read_bytes() == b"precious"


def test_result_of_an_earlier_run_is_replaced(recordings: Path) -> None:
    (recordings / "one.txt").write_text("old")
    assert Run("-o", recordings, recordings / "one.wav").exit_code == 0
    assert (recordings / "one.txt").read_text() == "First words.\n"


def test_output_that_is_a_file_is_refused(recordings: Path) -> None:
    run = Run("-o", recordings / "two.wav", recordings / "one.wav")
    assert run.exit_code == 2
    assert "takes a folder" in run.stderr


def test_failed_write_leaves_neither_half_a_file_nor_a_draft(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.txt", "\ud800")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.wav", "x/b.mp3"], ["a.txt", "b.txt"]),
        (["a.wav", "a.mp3"], ["a.wav.txt", "a.mp3.txt"]),
        (["x/a.wav", "y/a.wav"], ["a.wav.txt", "a.wav-2.txt"]),
        (["a.wav", "A.mp3"], ["a.wav.txt", "A.mp3.txt"]),
        (["a.wav", "a.wav", "b.wav"], ["a.wav.txt", "a.wav-2.txt", "b.txt"]),
        (["x/a.wav", "y/a.wav", "a.wav-2"], ["a.wav.txt", "a.wav-2.txt", "a.txt"]),
        (["-", "talk.tar.gz"], ["stdin.txt", "talk.tar.txt"]),
    ],
)
def test_results_of_files_with_equal_names_are_kept_apart(files: list[str], names: list[str]) -> None:
    found = [f"{name}.txt" for name in output_names(files)]
    assert len({name.casefold() for name in found}) == len(files)
    if "a.wav-2" not in files:
        assert found == names
