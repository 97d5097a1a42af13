"""`scribewire transcribe --diarize`, its child played by a stand-in or by a fake in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest

from scribewire.engine.cli import main
from scribewire.engine.cli.speakers import Diarizer
from scribewire.engine.demo import sample_recordings
from scribewire.engine.processes.console import Console
from scribewire.engine.protocol.attribution import with_speakers
from scribewire.engine.protocol.errors import SpeakersFailed, SpeakersUnavailable
from scribewire.engine.protocol.speakers import DiarizationConfig, SpeakerOptions, SpeakerTurn
from scribewire.engine.protocol.transcript import Transcript
from tests.fakes.fake_transcriber import FakeTranscriber
from tests.fakes.speaker_stand_in import MODULE


class FakeDiarizer:
    """Says that A speaks first and B then; fails where the file begins with `mumbles`."""

    def __init__(self) -> None:
        self.given: tuple[DiarizationConfig, SpeakerOptions] | None = None
        self.is_missing = False

    def __call__(self, config: DiarizationConfig, options: SpeakerOptions) -> FakeDiarizer:
        self.given = (config, options)
        return self

    def __enter__(self) -> FakeDiarizer:
        if self.is_missing:
            raise SpeakersUnavailable(
                "telling speakers apart needs an extra: .venv/bin/pip install -e '.[speakers]'"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @contextmanager
    def beside(self, path: Path) -> Iterator[Callable[[Transcript], Transcript]]:
        def joined(transcript: Transcript) -> Transcript:
            if path.read_bytes().startswith(b"mumbles"):
                raise SpeakersFailed("the process that tells speakers apart died")
            return with_speakers(transcript, [SpeakerTurn(0.0, 2.0, "A")])

        yield joined


class Run:
    """One run of the command and what came of it."""

    def __init__(self, *arguments: object, diarizer: FakeDiarizer | None = None) -> None:
        self.diarizer = diarizer or FakeDiarizer()
        self.engine = FakeTranscriber()
        out, err = io.StringIO(), io.StringIO()
        self.exit_code = main(
            ["transcribe", *map(str, arguments)],
            console=Console(io.BytesIO(), out, err),
            load=lambda *_: self.engine.load(),
            diarizer=self.diarizer,
        )
        self.stdout, self.stderr = out.getvalue(), err.getvalue()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    (tmp_path / "one.wav").write_bytes(b"First words.")
    return tmp_path / "one.wav"


def test_the_text_names_its_speakers(recording: Path):
    run = Run("--diarize", recording)
    assert (run.exit_code, run.stdout, run.stderr) == (0, "A: First words.\n", "")
    # Words divide a segment where an aligner is there.
    item = run.engine.heard[0][1]
    assert (item.words, item.words_optional) == (True, True)


def test_subtitles_and_json_name_them_too(recording: Path):
    assert "\nA: First words.\n" in Run("--diarize", "-f", "srt", recording).stdout
    assert "<v A>First words." in Run("--diarize", "-f", "vtt", recording).stdout
    document = json.loads(Run("--diarize", "-f", "json", recording).stdout)
    assert document["segments"][0]["speaker"] == "A"
    assert "speaker" not in json.loads(Run("-f", "json", recording).stdout)["segments"][0]


def test_numbers_of_speakers_and_the_model_reach_the_child(recording: Path):
    run = Run("--diarize", "--min-speakers", 2, "--max-speakers", 4, "--diarization-model", "x/y", recording)
    assert run.diarizer.given == (DiarizationConfig("x/y"), SpeakerOptions(min_speakers=2, max_speakers=4))
    run = Run("--diarize", "--num-speakers", 3, "--diarization-device", "cpu", recording)
    assert run.diarizer.given is not None
    assert run.diarizer.given[0].device == "cpu"
    assert run.diarizer.given[1] == SpeakerOptions(num_speakers=3)
    assert Run(recording).diarizer.given is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num-speakers", "2"], "add it"),
        (["--diarize", "--num-speakers", "0"], "from 1 to"),
        (
            ["--diarize", "--num-speakers", "2", "--max-speakers", "3"],
            "leave min_speakers and max_speakers out",
        ),
        (["--diarize", "--min-speakers", "4", "--max-speakers", "3"], "more than max_speakers"),
    ],
)
def test_senseless_numbers_are_one_line_before_anything_is_loaded(
    recording: Path, options: list[str], words: str
):
    run = Run(recording, *options)
    assert (run.exit_code, run.engine.load_count) == (2, 0)
    assert words in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_missing_extra_is_one_line_that_says_what_to_install_before_a_model_is_loaded(recording: Path):
    diarizer = FakeDiarizer()
    diarizer.is_missing = True
    run = Run("--diarize", recording, diarizer=diarizer)
    assert (run.exit_code, run.stdout, run.engine.load_count) == (1, "", 0)
    assert ".venv/bin/pip install -e '.[speakers]'" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_recording_whose_speakers_fail_is_one_line_and_the_others_are_done(recording: Path):
    other = recording.with_name("two.wav")
    other.write_bytes(b"mumbles")
    run = Run("--diarize", other, recording)
    assert run.exit_code == 1
    assert run.stderr == f"scribewire: {other}: the process that tells speakers apart died\n"
    assert run.stdout.endswith("A: First words.\n")


# ---- a child of its own --------------------------------------------------------------------------------------


@pytest.mark.process
def test_without_pyannote_audio_the_command_says_what_to_install(recording: Path):
    out, err = io.StringIO(), io.StringIO()
    console = Console(io.BytesIO(), out, err)
    code = main(
        ["transcribe", "--diarize", str(recording)], console=console, load=lambda *_: FakeTranscriber().load()
    )
    assert (code, out.getvalue()) == (1, "")
    assert ".venv/bin/pip install -e '.[speakers]'" in err.getvalue()


@pytest.mark.process
def test_the_child_gets_the_samples_of_each_recording_and_is_ended_with_the_command():
    recording = sample_recordings()[0].path
    words = Transcript("one two", "English", ("English",), 1.0, (), "demo")
    with Diarizer(DiarizationConfig(), SpeakerOptions(), module=MODULE) as diarizer:
        process = diarizer._process
        for _ in range(2):
            with diarizer.beside(recording) as joined:
                assert joined(words).text == "one two"
        assert diarizer._process is process
    assert process is not None
    assert not process.child.is_alive


@pytest.mark.process
def test_a_recording_that_is_given_up_ends_its_child_and_the_next_has_another(tmp_path: Path):
    script = tmp_path / "script.wav"
    recording = sample_recordings()[0].path
    script.write_bytes(recording.read_bytes())
    with Diarizer(DiarizationConfig(), SpeakerOptions(), module=MODULE) as diarizer:
        first = diarizer._process
        with pytest.raises(KeyboardInterrupt), diarizer.beside(recording):
            raise KeyboardInterrupt
        with diarizer.beside(script) as joined:
            assert joined(Transcript("", None, (), 1.0, (), "demo")).segments == ()
        assert first is not None
