"""The command with the bundled model and no fakes: the words of the shipped recordings, and no word to the network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scribewire.engine.cli.doctor import WORD_ERRORS_ALLOWED, word_errors
from scribewire.engine.demo import demo_model_path, sample_recordings
from tests.fakes.fake_hub import FakeHub
from tests.unit.test_cli_processes import finished, start

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.process


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scribewire", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)


def assert_is_right(said: str, wanted: str) -> None:
    errors, words = word_errors(wanted, said)
    assert errors <= WORD_ERRORS_ALLOWED * words, said


def test_shipped_recordings_are_transcribed_and_the_demo_says_what_it_is() -> None:
    recordings = sample_recordings()
    done = run("transcribe", "--model", "demo", "-f", "json", *(one.path for one in recordings), "README.md")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    for document, recording in zip(documents, recordings, strict=True):
        assert_is_right(document["text"], recording.reference)
        assert document["language"] == recording.language.lower()
        assert document["is_demo"] is True
        assert document["model"] == "demo"
    assert done.returncode == 1  # the README is no recording, and the others were done all the same
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "demo model" in lines[0]
    assert lines[1].startswith("scribewire: README.md: ")


def test_recording_comes_through_standard_input() -> None:
    recording = sample_recordings()[0]
    done = subprocess.run(
        [sys.executable, "-m", "scribewire", "transcribe", "--model", "demo", "-"],
        cwd=PROJECT,
        input=recording.path.read_bytes(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert_is_right(done.stdout.decode(), recording.reference)


def test_doctor_finds_a_healthy_installation(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--data", tmp_path, "--port", "0")
    found = json.loads(done.stdout)
    assert [one for one in found["checks"] if one["status"] == "failed"] == []
    assert (done.returncode, found["healthy"]) == (0, True)
    assert {"mlx", "demo model", "transcription", "data folder", "port"} <= {
        one["check"] for one in found["checks"]
    }


def test_language_that_the_demo_does_not_speak_is_one_line_naming_those_it_does() -> None:
    done = run("transcribe", "--model", "demo", "--language", "ja", sample_recordings()[0].path)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert "English" in last
    assert "Spanish" in last


def test_model_from_the_cache_transcribes_without_a_network_call(tmp_path: Path) -> None:
    recording = sample_recordings()[0]
    files = {path.name: path.read_bytes() for path in demo_model_path().iterdir() if path.is_file()}
    with FakeHub({"someone/Small-ASR": files}).serving() as hub:
        command = ("transcribe", "--model", "someone/Small-ASR", str(recording.path))
        code, said, _ = finished(start(hub, tmp_path, *command))
        assert code == 0
        assert_is_right(said, recording.reference)
        assert hub.downloads_of("model.safetensors")
        hub.requests.clear()
        code, again, err = finished(start(hub, tmp_path, *command))
        assert (code, again, err) == (0, said, "")
        assert hub.requests == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_folder_that_lacks_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model_path(), folder)
    (folder / name).unlink()
    done = run("transcribe", "--model", folder, sample_recordings()[0].path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "fetch the model again" in done.stderr


def test_half_downloaded_weights_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model_path(), folder)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    done = run("transcribe", "--model", folder, sample_recordings()[0].path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cut off" in done.stderr
