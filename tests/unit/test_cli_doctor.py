"""The doctor: each thing that can be wrong is found, named, and comes with what to do."""

import io
import json
import socket
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Literal

import pytest

from scribewire.engine.checkpoint.fetch import HubAccess, pull
from scribewire.engine.cli import doctor
from scribewire.engine.cli.doctor import show_findings
from scribewire.engine.cli.findings import ChildResult, Finding, run_python
from scribewire.engine.demo import SampleRecording, demo_aligner_path, demo_model_path
from scribewire.engine.processes.console import Console
from scribewire.engine.protocol.config import DEFAULT_ALIGNER
from tests.fakes.fake_hub import FakeHub, model_files
from tests.fakes.waiting import PATIENCE_SECONDS, join

GOOD_MLX = ChildResult(0, json.dumps({"version": "0.32.4", "device": "cpu", "sum": 64**3}), "")


def answering(text: str) -> ChildResult:
    document = {"text": text, "duration": 3.0}
    return ChildResult(0, json.dumps(document), "")


@pytest.fixture
def recording(tmp_path: Path) -> SampleRecording:
    path = tmp_path / "english.wav"
    path.write_bytes(b"RIFF")
    return SampleRecording(
        path, "English", "The train to the coast leaves at nine, from the fourth platform."
    )


def test_recordings_set_aside_are_counted_and_a_doubted_clock_is_told(tmp_path: Path) -> None:
    assert doctor.check_kept_recordings(tmp_path).status == "ok"
    orphans = tmp_path / "jobs" / "orphans"
    orphans.mkdir(parents=True)
    for name in ("a", "b"):
        (orphans / name).write_bytes(bytes(500))
    found = doctor.check_kept_recordings(tmp_path)
    assert (found.status, found.detail.split(" of ")[0]) == ("note", "2 recordings (1.0 kB)")
    assert found.remedy is not None
    assert "jobs purge --orphans" in found.remedy
    (tmp_path / "jobs" / "retention-waits").write_text("3 results wait.\n")
    assert doctor.check_kept_recordings(tmp_path).detail == "3 results wait."


def test_mlx_is_really_run_in_a_process_of_its_own() -> None:
    finding = doctor.check_mlx(run_python, "Linux")
    assert finding.status == "ok", finding
    assert "mlx 0." in finding.detail


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (ChildResult(-6, "", "libc++abi: terminating\nAbort trap"), "killed by signal 6: Abort trap"),
        (ChildResult(1, "", "ModuleNotFoundError: No module named 'mlx'"), "No module named 'mlx'"),
        (ChildResult(0, json.dumps({"version": "9", "device": "gpu", "sum": 1.0}), ""), "but wrongly"),
    ],
)
def test_mlx_that_crashes_is_missing_or_miscalculates_is_a_failure(result: ChildResult, words: str) -> None:
    finding = doctor.check_mlx(lambda arguments: result, "Linux")
    assert finding.status == "failed"
    assert words in finding.detail
    assert finding.remedy


def test_mac_without_metal_is_noted() -> None:
    assert doctor.check_mlx(lambda arguments: GOOD_MLX, "Darwin").status == "note"


@pytest.mark.parametrize(("library", "status"), [(None, "note"), ("libjemalloc.so.2", "ok")])
def test_cuda_without_the_allocator_that_it_runs_fastest_with_is_noted(
    monkeypatch: pytest.MonkeyPatch, library: str | None, status: str
) -> None:
    monkeypatch.setattr(doctor, "preloadable", lambda device: library)
    on_gpu = ChildResult(0, json.dumps({"version": "0.32.4", "device": "gpu", "sum": 64**3}), "")
    finding = doctor.check_mlx(lambda arguments: on_gpu, "Linux")
    assert finding.status == status
    assert (finding.remedy is not None and "libjemalloc2" in finding.remedy) == (status == "note")
    assert doctor.check_mlx(lambda arguments: on_gpu, "Darwin").status == "ok"


@pytest.mark.parametrize(
    ("system", "machine", "status"),
    [
        ("Darwin", "arm64", "ok"),
        ("Linux", "x86_64", "ok"),
        ("Linux", "aarch64", "ok"),
        ("Darwin", "x86_64", "failed"),
        ("Windows", "AMD64", "failed"),
        ("Linux", "armv7l", "failed"),
    ],
)
def test_platforms_without_mlx_fail(system: str, machine: str, status: str) -> None:
    assert doctor.check_platform(system, machine).status == status


def test_right_text_passes_whatever_its_case_and_punctuation(recording: SampleRecording) -> None:
    asked: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> ChildResult:
        asked.append(arguments)
        return answering("the train to the coast leaves at nine from the fourth platform")

    finding = doctor.check_transcription(recording, run)
    assert finding.status == "ok"
    assert "12 of 12 words right" in finding.detail
    assert list(asked[0]) == [
        *("-m", "scribewire", "transcribe", "--model", "demo", "-f", "json"),
        str(recording.path),
    ]


def test_one_wrong_word_in_ten_passes_and_two_do_not(recording: SampleRecording) -> None:
    one = "The rain to the coast leaves at nine from the fourth platform"
    two = "The rain to the toast leaves at nine from the fourth platform"
    assert doctor.check_transcription(recording, lambda arguments: answering(one)).status == "ok"
    assert doctor.check_transcription(recording, lambda arguments: answering(two)).status == "failed"


@pytest.mark.parametrize(
    "result", [answering(""), ChildResult(1, "", "scribewire: demo: cut off"), ChildResult(-9, "", "")]
)
def test_transcription_that_fails_or_says_nothing_is_a_failure(
    recording: SampleRecording, result: ChildResult
) -> None:
    finding = doctor.check_transcription(recording, lambda arguments: result)
    assert finding.status == "failed"
    assert finding.remedy


def test_missing_recording_is_a_failure() -> None:
    assert doctor.check_transcription(None, lambda arguments: GOOD_MLX).status == "failed"


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        (demo_model_path(), ["--model", "{folder}"]),
        (demo_aligner_path(), ["--model", "demo", "--aligner", "{folder}", "--words"]),
    ],
    ids=["recognizer", "aligner"],
)
def test_a_model_is_loaded_and_hears_and_an_aligner_times_words(
    recording: SampleRecording, folder: Path, options: list[str]
) -> None:
    asked: list[Sequence[str]] = []
    said = recording.reference

    def run(arguments: Sequence[str]) -> ChildResult:
        asked.append(arguments)
        return answering(said)

    assert doctor.check_model(str(folder), recording, run, HubAccess()).status == "ok"
    wanted = [str(folder.resolve()) if one == "{folder}" else one for one in options]
    assert list(asked[0])[3:-3] == wanted
    said = "something else"
    assert doctor.check_model(str(folder), recording, run, HubAccess()).status == "note"


def test_a_model_that_does_not_load_is_a_failure_in_the_loaders_words(
    recording: SampleRecording, tmp_path: Path
) -> None:
    def refuses(arguments: Sequence[str]) -> ChildResult:
        return ChildResult(1, "", "scribewire: model.norm.weight holds NaN or infinity")

    found = doctor.check_model(str(demo_model_path()), recording, refuses, HubAccess())
    assert (found.status, "holds NaN" in found.detail) == ("failed", True)

    def untimed(arguments: Sequence[str]) -> ChildResult:
        document = json.loads(answering(recording.reference).stdout)
        return ChildResult(0, json.dumps(document | {"warnings": ["no word times: broken"]}), "")

    assert doctor.check_model(str(demo_aligner_path()), recording, untimed, HubAccess()).status == "failed"
    (tmp_path / "config.json").write_text("{}")
    found = doctor.check_model(str(tmp_path), recording, refuses, HubAccess())
    assert (found.status, str(tmp_path) in found.detail) == ("failed", True)


def test_folder_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert doctor.check_data_folder(tmp_path / "file" / "data").status == "failed"
    assert doctor.check_data_folder(tmp_path / "new" / "data").status == "ok"
    assert not (tmp_path / "new").exists()


def test_port_in_use_is_a_failure_unless_a_scribewire_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(PATIENCE_SECONDS)
        port = other.getsockname()[1]
        # Accepts and says nothing: closed at once, so that the doctor need not wait.
        threading.Thread(target=lambda: other.accept()[0].close(), daemon=True).start()
        assert doctor.check_port(port).status == "failed"
    assert doctor.check_port(port).status == "ok"


def test_port_of_a_healthy_scribewire_is_no_failure() -> None:
    class Live(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health/live" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Live) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        finding = doctor.check_port(server.server_port)
        join(thread)
    assert finding.status == "ok"
    assert "serving" in finding.detail


def test_absent_default_model_is_a_note_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    finding = doctor.check_default_model(HubAccess(cache_folder=tmp_path))
    assert finding.status == "note"
    assert finding.remedy == "scribewire pull mlx-community/Qwen3-ASR-0.6B-8bit"


def test_absent_aligner_is_a_note_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    finding = doctor.check_word_times(HubAccess(cache_folder=tmp_path))
    assert finding.status == "note"
    assert finding.remedy == f"scribewire pull {DEFAULT_ALIGNER}"


def test_an_aligner_without_the_extra_names_the_languages_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub({DEFAULT_ALIGNER: model_files()}).serving() as fake:
        hub = HubAccess(fake.address, tmp_path / "cache", retry_waits_seconds=(), timeout_seconds=5)
        pull(DEFAULT_ALIGNER, hub=hub)
    monkeypatch.setattr("scribewire.engine.cli.doctor.importlib.util.find_spec", lambda name: None)
    finding = doctor.check_word_times(hub)
    assert (finding.status, finding.remedy) == ("note", ".venv/bin/pip install -e '.[cjk]'")
    assert "Japanese and Korean need nagisa and soynlp" in finding.detail
    monkeypatch.setattr("scribewire.engine.cli.doctor.importlib.util.find_spec", lambda name: name)
    assert doctor.check_word_times(hub).status == "ok"


def test_little_memory_is_noted() -> None:
    assert doctor.check_memory(2 * 10**9).status == "note"
    assert doctor.check_memory(16 * 10**9).status == "ok"


@pytest.mark.parametrize(
    ("wanted", "said", "errors"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "", 3),
        ("a b c", "a c", 1),
        ("a b c", "a x c d", 2),
        ("El niño.", "el NIÑO", 0),
    ],
)
def test_word_errors_count_edits_after_folding(wanted: str, said: str, errors: int) -> None:
    assert doctor.word_errors(wanted, said)[0] == errors


def test_any_failure_makes_the_exit_code_one() -> None:
    def shown(*findings: Finding, as_json: bool = False) -> tuple[int, str]:
        out = io.StringIO()
        return show_findings(
            findings, Console(io.BytesIO(), out, io.StringIO()), as_json=as_json
        ), out.getvalue()

    fine, bad = Finding("a", "ok", "x"), Finding("b", "failed", "y", "do z")
    note = Finding("c", "note", "w", "maybe v")
    assert shown(fine, note)[0] == 0
    code, text = shown(fine, bad, note)
    assert code == 1
    assert "FAILED  b: y\n          -> do z" in text
    assert text.endswith("Failed: b.\n")
    code, text = shown(fine, bad, as_json=True)
    assert code == 1
    assert json.loads(text)["healthy"] is False


@pytest.mark.parametrize(
    ("status", "last"),
    [
        ("ok", "Everything works."),
        ("note", "Everything works with the demo model; there is no real model yet."),
    ],
)
def test_last_line_says_whether_there_is_a_real_model(status: Literal["ok", "note"], last: str) -> None:
    out = io.StringIO()
    findings = [Finding("transcription", "ok", "x"), Finding("default model", status, "y")]
    assert show_findings(findings, Console(io.BytesIO(), out, io.StringIO()), as_json=False) == 0
    assert out.getvalue().splitlines()[-1] == last
