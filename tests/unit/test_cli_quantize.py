"""`scribewire quantize` as it is typed: the demo model made smaller still transcribes; refusals are one line."""

import io
from pathlib import Path

from scribewire.engine.cli import main
from scribewire.engine.demo import sample_recordings
from scribewire.engine.processes.console import Console


def run(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = main(list(arguments), console=Console(io.BytesIO(), out, err))
    return code, out.getvalue(), err.getvalue()


def test_the_demo_model_in_fewer_bits_still_transcribes(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    code, out, err = run("quantize", "demo", str(folder), "--recipe", "audio8-text4")
    assert code == 0
    assert out.startswith(f"{folder} is complete: ")
    assert "demo was quantized already" in err
    recording = sample_recordings()[0]
    code, out, _ = run("transcribe", "--model", str(folder), str(recording.path))
    assert (code, out.strip()) == (0, recording.reference)


def test_quality_goes_on_the_card(tmp_path: Path) -> None:
    measured = tmp_path / "wer.txt"
    measured.write_text("WER 2.72 %\n")
    folder = tmp_path / "small"
    code, _, _ = run("quantize", "demo", str(folder), "--recipe", "8bit", "--quality", str(measured))
    assert code == 0
    assert "WER 2.72 %" in (folder / "README.md").read_text()


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    code, _, err = run("quantize", "demo", str(tmp_path / "a"), "--recipe", "3bit")
    assert code == 2
    assert err.count("\n") == 1
    assert "there is no recipe '3bit'" in err
    code, _, err = run("quantize", str(tmp_path / "nothing"), str(tmp_path / "a"), "--recipe", "4bit")
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = run("quantize", "demo", str(tmp_path / "a"), "--recipe", str(tmp_path / "no.toml"))
    assert (code, err.count("\n")) == (1, 1)
    assert not (tmp_path / "a").exists()
