"""Formats and files of `scribewire transcribe`: where results go, and what is never overwritten."""

import io
import json
import os
from pathlib import Path

import pytest

from scribewire.engine.cli.results import document
from scribewire.engine.processes.console import Console
from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.transcript import Segment, Transcript, Word
from scribewire.engine.protocol.whole_file import find_recordings, write_whole
from scribewire.server.intake.formats import FORMATS
from scribewire.server.routes.documents import rendered
from tests.fakes.transcribe_command import SUBTITLES, Run, write_recordings


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_recordings(tmp_path)


# ---- subtitles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", SUBTITLES)
def test_subtitles_of_one_file_are_the_whole_of_stdout(recordings: Path, form: str) -> None:
    run = Run("-f", form, recordings / "one.wav")
    assert (run.exit_code, run.stdout, run.stderr) == (0, SUBTITLES[form], "")


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
        assert json.loads((folder / "one.json").read_text())["text"] == "First words."
        Run("-f", "all", "-o", recordings / "there", "--force", recordings / "one.wav")


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


def test_result_of_an_earlier_run_is_left_unless_forced(recordings: Path) -> None:
    (recordings / "one.txt").write_text("old")
    run = Run("-o", recordings, recordings / "one.wav", recordings / "two.wav")
    assert run.exit_code == 1
    assert f"{recordings / 'one.txt'} is there already; --force replaces it" in run.stderr
    assert (recordings / "one.txt").read_text() == "old"
    assert (recordings / "two.txt").read_text() == "Second words.\n"
    assert Run("-o", recordings, "--force", recordings / "one.wav").exit_code == 0
    assert (recordings / "one.txt").read_text() == "First words.\n"


def test_recordings_that_have_their_results_are_passed_over(recordings: Path) -> None:
    (recordings / "one.txt").write_text("old")
    again = ["--skip-existing", "-o", recordings, recordings / "one.wav", recordings / "two.wav"]
    run = Run(*again)
    assert (run.exit_code, len(run.engine.heard)) == (0, 1)
    assert "1 of 2 recordings have their results already" in run.stderr
    run = Run(*again)
    assert (run.exit_code, run.engine.load_count) == (0, 0)
    assert Run(*again, "-f", "txt,srt").exit_code == 0
    assert (recordings / "one.txt").read_text() == "old"
    assert "First words." in (recordings / "one.srt").read_text()


@pytest.mark.parametrize(
    ("name", "options", "beginning"),
    [
        ("out.srt", [], "1\n00:00:00,500 -->"),
        ("out.vtt", ["-f", "srt"], "1\n00:00:00,500 -->"),
        ("out.TXT", [], "First"),
        ("new/out.json", [], "{"),
    ],
)
def test_output_that_ends_as_a_format_is_a_file(
    recordings: Path, name: str, options: list[str], beginning: str
) -> None:
    run = Run("-o", recordings / name, *options, recordings / "one.wav")
    assert (run.exit_code, run.stdout) == (0, f"{recordings / name}\n")
    assert (recordings / name).read_text().startswith(beginning)


def test_one_file_for_several_results_is_refused(recordings: Path) -> None:
    one, two = recordings / "one.wav", recordings / "two.wav"
    for options in ([one, two], ["-f", "srt,vtt", one]):
        run = Run("-o", recordings / "out.srt", *options)
        assert (run.exit_code, run.engine.load_count) == (2, 0)
        assert "name a folder with -o DIR/" in run.stderr
    assert Run("-o", f"{recordings / 'out.srt'}/", one, two).exit_code == 0
    assert (recordings / "out.srt" / "one.txt").exists()


def test_output_that_is_neither_folder_nor_file_is_refused(recordings: Path) -> None:
    run = Run("-o", "/dev/null", recordings / "one.wav")
    assert run.exit_code == 2
    assert "neither a folder nor a file" in run.stderr


@pytest.mark.parametrize("options", [["-f", "srt,vtt"], ["-f", "srt", "-f", "vtt"], ["-f", "srt, vtt,srt"]])
def test_several_formats_are_a_file_each(
    recordings: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings)
    run = Run(*options, "one.wav")
    assert run.stdout.splitlines() == ["one.srt", "one.vtt"]
    assert (recordings / "one.vtt").read_text() == SUBTITLES["vtt"]


def test_text_is_another_name_of_txt_and_an_unknown_one_is_refused(recordings: Path) -> None:
    assert Run("-f", "text", recordings / "one.wav").stdout == "First words.\n"
    run = Run("-f", "doc", recordings / "one.wav")
    assert (run.exit_code, run.engine.load_count) == (2, 0)
    assert "there are txt, json, srt, vtt, tsv, lrc" in run.stderr


def test_failed_write_leaves_neither_half_a_file_nor_a_draft(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "a.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_name_that_is_not_utf8_works_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / f"{name}.wav").write_bytes(b"First words.")
    monkeypatch.chdir(tmp_path)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr("sys.stdout", stdout)
    run = Run("-f", "json,txt", "-o", "out", f"{name}.wav", stdout=Console.of_this_process().stdout)
    assert (run.exit_code, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [f"out/{name}.json", f"out/{name}.txt"]
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["file"] == f"{name}.wav"
    assert (
        json.loads(Run("-f", "json", f"{name}.wav", stdout=stdout).stdout.splitlines()[-1])["file"]
        == f"{name}.wav"
    )
    assert Run(f"{name}.mp3").stderr == f"scribewire: {name}.mp3: no such file\n"


def test_json_is_the_verbose_json_of_the_api_with_file_and_model() -> None:
    words = (Word("Hello", 0.1234567, 0.5), Word("there.", 0.5, 1.0))
    segment = Segment(
        0, 0.1, 1.5, "Hello there.", "English", (5, 6), 0.2, -0.25, 1.1, 1e-9, words, notice="budget"
    )
    transcript = Transcript(
        "Hello there.", "English", ("English",), 2.0, (segment,), "m", warnings=("short",)
    )
    info = ModelInfo("m", True, (), "cpu", "float32", 16, 0, 0, 0.0)
    for one in (transcript, Transcript("", None, (), 2.0, (), "m")):
        served = rendered(FORMATS["verbose_json"], one, info, TranscribeOptions(words=bool(one.segments)))
        own = {"file": "a.wav", "model": "m", "is_demo": True}
        assert document(one, info, "a.wav") == own | json.loads(served)


# ---- folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(recordings: Path) -> Path:
    folder = recordings / "tree"
    for name in ("b.mp3", "sub/a.wav", "sub/a.MP4", "sub/.hidden.wav", ".git/c.wav", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"This is {name}.".encode())
    return folder


def test_folder_is_gone_through_when_asked_for_and_its_results_lie_as_it_does(tree: Path) -> None:
    run = Run("--recursive", "-o", tree.parent / "out", tree, tree.parent / "one.wav")
    assert run.exit_code == 0
    texts = {
        str(path.relative_to(tree.parent / "out")): path.read_text()
        for path in tree.parent.glob("out/**/*.txt")
    }
    assert texts == {
        "b.txt": "This is b.mp3.\n",
        "sub/a.wav.txt": "This is sub/a.wav.\n",
        "sub/a.MP4.txt": "This is sub/a.MP4.\n",
        "one.txt": "First words.\n",
    }


def test_folder_is_refused_unless_asked_for_and_so_is_one_without_recordings(tree: Path) -> None:
    run = Run(tree)
    assert (run.exit_code, run.engine.load_count) == (1, 0)
    assert "is a folder; --recursive takes what is in it" in run.stderr
    (tree / "empty").mkdir()
    run = Run("-r", tree / "empty", tree / "b.mp3")
    assert run.exit_code == 1
    assert "no recording is in it" in run.stderr
    assert "This is b.mp3." in run.stdout


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
    found = [f"{one.result}.txt" for one in find_recordings(files, recursive=False)]
    assert len({name.casefold() for name in found}) == len(files)
    if "a.wav-2" not in files:
        assert found == names
