"""What the doctor says on a Mac, from what macOS and MLX would answer there."""

from __future__ import annotations

import json

import pytest

from scribewire.engine.cli.findings import ChildResult, run_python
from scribewire.engine.cli.mac import check_gpu_memory, check_macos
from scribewire.engine.processes.architecture import ask_system, wrong_architecture
from scribewire.server import cli

GIB = 1 << 30


def macos(version: str, **answers: str):
    """A Mac's commands: sw_vers, and sysctl by the names given (dots as underscores)."""

    def ask(*command: str) -> str:
        if command == ("sw_vers", "-productVersion"):
            return version
        assert command[:2] == ("sysctl", "-n")
        return answers.get(command[2].replace(".", "_"), "")

    return ask


@pytest.mark.parametrize(
    ("by_python", "version", "status", "words"),
    [
        ("15.6", "15.6", "ok", "macOS 15.6"),
        ("26.1", "26.1", "ok", "macOS 26.1"),
        ("16.0", "26.1", "note", "takes for 16.0"),
        ("14.7", "14.7", "note", "cannot be wired"),
        ("13.6", "13.6", "failed", "macOS 13.6"),
        ("15.1", "", "ok", "macOS 15.1"),
    ],
)
def test_macos_and_the_python_for_it(by_python: str, version: str, status: str, words: str):
    finding = check_macos(by_python, macos(version))
    assert finding.status == status
    assert words in finding.detail
    assert (finding.remedy is None) == (status == "ok")


def test_working_set_and_limits_are_shown_with_what_raises_them():
    said = {
        "kind": "metal",
        "physical_bytes": 16 * GIB,
        "working_set_bytes": 12 * GIB,
        "total_bytes": 9 * GIB,
        "wired_bytes": 9 * GIB,
        "cache_bytes": GIB,
    }
    finding = check_gpu_memory(
        lambda arguments: ChildResult(0, json.dumps(said), ""), macos("15.6", iogpu_wired_limit_mb="0")
    )
    assert finding is not None
    assert finding.status == "ok"
    for words in ("12.88 GB of 17.18 GB", "9.66 GB at most", "sysctl iogpu.wired_limit_mb=", "(now 0)"):
        assert words in finding.detail


def test_probe_of_the_memory_runs_and_is_silent_without_metal():
    assert check_gpu_memory(run_python, macos("15.6")) is None
    failed = check_gpu_memory(lambda arguments: ChildResult(-6, "", "Abort trap"), macos("15.6"))
    assert failed is not None
    assert (failed.status, failed.detail) == ("failed", "killed by signal 6: Abort trap")


def test_intel_pythons_are_refused_in_words():
    assert wrong_architecture("Linux", "x86_64") is None
    assert wrong_architecture("Darwin", "arm64") is None
    translated = wrong_architecture("Darwin", "x86_64", macos("15.6", sysctl_proc_translated="1"))
    assert translated is not None
    assert "Rosetta" in translated
    intel = wrong_architecture("Darwin", "x86_64", macos("15.6", sysctl_proc_translated="0"))
    assert intel is not None
    assert "Intel processor" in intel


@pytest.mark.parametrize("command", ["serve", "transcribe", "bench"])
def test_commands_that_need_mlx_end_in_one_line_where_it_cannot_be(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cli, "wrong_architecture", lambda: "this Python runs under Rosetta")
    assert cli.main([command, "x"]) == 1
    assert capsys.readouterr().err == "scribewire: this Python runs under Rosetta\n"
    assert cli.main(["languages"]) == 0


def test_system_is_asked_by_its_commands():
    assert ask_system("echo", "a word") == "a word"
    assert ask_system("false") == ""
    assert ask_system("no-such-command-here") == ""
