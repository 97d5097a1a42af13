"""Formats and files of `scribewire submit`, which are those of `transcribe`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scribewire.engine.cli.results import document
from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.transcript import Segment, Transcript
from tests.fakes.running_server import RunningServer
from tests.http.test_client_commands import recording, typed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("server"), retry_window_seconds=0) as running:
        yield running


def test_formats_and_files_are_named_as_for_transcribe(server: RunningServer, tmp_path: Path):
    file, target = recording(tmp_path, "a.wav", text="this is a"), tmp_path / "out" / "talk.txt"
    assert typed(server, "submit", "-o", str(target), file)[:2] == (0, f"{target}\n")
    assert target.read_text() == "this is a\n"
    assert typed(server, "submit", "-w", "-f", "txt", file)[1] == "this is a\n"
    code, _, err = typed(server, "submit", "-o", str(target), file)
    assert code == 1
    assert "is there already; --force replaces it" in err
    assert typed(server, "submit", "-o", str(target), "--force", file)[0] == 0
    places = ["-o", str(tmp_path / "texts"), "-f", "srt,json", "-f", "txt", "--recursive", str(tmp_path)]
    code, out, _ = typed(server, "submit", *places)
    assert (code, out.split()) == (
        0,
        [str(tmp_path / "texts" / f"a.{form}") for form in ("srt", "json", "txt")],
    )
    code, out, err = typed(server, "submit", *places, "--skip-existing")
    assert (code, out) == (0, "")
    assert "1 of 1 recordings have their results already" in err
    assert typed(server, "submit", "-f", "doc", file)[0] == 2


def test_folder_is_refused_as_by_transcribe(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, "a.wav", text="this is a")
    code, out, err = typed(server, "submit", "-w", str(tmp_path), file)
    assert (code, out.count("this is a")) == (1, 1)
    assert f"{tmp_path}: is a folder; --recursive takes what is in it\n" in err
    (empty := tmp_path / "empty").mkdir()
    assert f"{empty}: no recording is in it\n" in typed(server, "submit", "-r", str(empty))[2]


def test_json_is_that_of_transcribe(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, "a.wav", text="this is a", partials=["this", "is a"])
    told = json.loads(typed(server, "submit", "-w", "-f", "json", file)[1])
    segments = (Segment(0, 0.0, 2.0, "this is a", "English"),)
    transcript = Transcript("this is a", "English", ("English",), 2.0, segments, "m")
    wanted = document(transcript, ModelInfo("m", False, (), "cpu", "float32", 16, 0, 0, 0.0), "a.wav")
    assert list(told) == list(wanted)
    assert told["segments"][0].keys() == wanted["segments"][0].keys()
    assert (told["file"], told["text"], told["is_demo"]) == (file, "this is a", False)


def test_name_that_is_not_utf8_can_be_submitted(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, os.fsdecode(b"caf\xe9.wav"), text="coffee")
    assert typed(server, "submit", "-w", file)[:2] == (0, "coffee\n")
    assert json.loads(typed(server, "submit", "-w", "-f", "json", file)[1])["file"] == file
