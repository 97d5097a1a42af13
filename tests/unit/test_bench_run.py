"""A benchmark's run: parts are written as they end, kept by the next run, and one that fails leaves the others."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.bench import runner
from scribewire.engine.bench.plan import Plan, PlanInvalid
from scribewire.engine.bench.process import ChildFailed, started
from scribewire.engine.bench.runner import Note, Results, run
from scribewire.engine.bench.serving import Caller, scribewire_server
from scribewire.engine.demo import demo_model_path, sample_recordings
from tests.fakes.tiny_model import write_tiny_model

SMALL = replace(
    Plan(model="demo").quick(), device="cpu", rounds=1, row_seconds=2.0, rows=(1, 2), steps=3, loads=1
)


class Noted(list[str]):
    """Lines of progress that a run printed."""

    def __call__(self, text: str) -> None:
        self.append(text)


def measure(plan: Plan, out: Path | None, note: Note, *, again: bool = False) -> Results:
    results = Results(plan, "scribewire bench", out)
    run(plan, results, note, again=again)
    return results


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def test_parts_are_measured_written_and_kept_by_the_next_run(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    plan = replace(SMALL, model=str(tiny), parts=("limits", "step"))
    results = measure(plan, out, Noted())
    document = results.document
    assert json.loads(out.read_text()) == document
    assert results.failed() == []
    step = document["parts"]["step"]["by_rows"]
    assert step["1"]["step"]["count"] == step["2"]["step"]["count"] == 3
    assert step["2"]["tokens_held"] > step["1"]["tokens_held"]
    assert step["1"]["share_of_bandwidth"] > 0.0
    assert document["parts"]["step"]["memory"]["peak_resident_bytes"] > 10**7
    assert document["engine"]["step_weight_bytes"] == document["parts"]["step"]["weight_bytes"] > 0
    assert str(tmp_path) not in out.read_text()

    noted = Noted()
    again = measure(replace(plan, parts=("limits", "step", "load")), out, noted)
    assert again.parts["step"] == document["parts"]["step"]
    assert again.parts["load"]["ready"]["count"] == 1
    assert sum("kept" in line for line in noted) == 2

    fewer = measure(replace(plan, parts=("step",), rows=(1,)), out, Noted())
    assert set(fewer.parts["step"]["by_rows"]) == {"1"}
    assert set(fewer.parts) == {"limits", "step", "load"}


def test_results_of_another_subject_are_not_mixed_in(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    subject = replace(SMALL, dtype="float16").subject()
    out.write_text(json.dumps({"document_version": 1, "subject": subject, "parts": {}}))
    with pytest.raises(PlanInvalid, match="give another --out"):
        Results(SMALL, "scribewire bench", out)
    out.write_text('{"something": "else"}')
    with pytest.raises(PlanInvalid, match="no result of this benchmark"):
        Results(SMALL, "scribewire bench", out)
    assert out.read_text() == '{"something": "else"}'


def test_a_part_that_fails_is_noted_and_measured_by_the_next_run(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    (tiny / "vocab.json").write_text("{")  # the networks do not need it, the engine does
    plan = replace(SMALL, model=str(tiny), parts=("load", "step"))
    noted = Noted()
    first = measure(plan, out, noted)
    assert first.failed() == ["load"]
    assert "damaged" in first.parts["load"]["error"]
    assert "step" in first.parts["step"]["by_rows"]["1"]
    assert any(line.startswith("load failed") for line in noted)

    write_tiny_model(tiny)
    mended = measure(plan, out, Noted())
    assert mended.failed() == []
    assert mended.parts["load"]["ready"]["median"] > mended.parts["load"]["load"]["median"]
    assert mended.parts["step"] == first.parts["step"]


def test_what_a_part_had_found_when_it_was_interrupted_is_written_and_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    plan = replace(SMALL, parts=("clients",), client_seconds=2.0)
    original = runner.closed_loop

    def only_one(server: Any, clips: Any, clients: int, *more: Any, **options: Any) -> Any:
        if clients > 1:
            raise KeyboardInterrupt
        return original(server, clips, clients, *more, **options)

    monkeypatch.setattr(runner, "closed_loop", only_one)
    with pytest.raises(KeyboardInterrupt):
        measure(plan, out, Noted())
    broken = json.loads(out.read_text())["parts"]["clients"]
    assert broken["error"] == "interrupted"
    assert broken["by_clients"]["1"]["p95_over_idle"] >= 1.0

    monkeypatch.setattr(runner, "closed_loop", original)
    whole = measure(plan, out, Noted()).parts["clients"]
    assert "error" not in whole
    assert list(whole["by_clients"]) == ["1", "2"]

    monkeypatch.setattr(runner, "closed_loop", only_one)
    with pytest.raises(KeyboardInterrupt):
        measure(plan, out, Noted(), again=True)
    assert json.loads(out.read_text())["parts"]["clients"] == whole, "what was finished before is kept"


def test_a_process_first_run_of_the_long_file_is_told_apart() -> None:
    plan = replace(SMALL, parts=("clip", "long"), clip_seconds=(2.0,), long_seconds=6.0, long_rounds=2)
    noted = Noted()
    parts = measure(plan, None, noted).parts
    found = parts["long"]
    assert found["times"]["scribewire"]["count"] == 2
    assert found["times_real_time"] == pytest.approx(6.0 / found["times"]["scribewire"]["median"], abs=0.01)
    assert list(found["first_run_seconds"]) == ["scribewire"]
    assert found["first_run_seconds"]["scribewire"] > 0.0
    assert any(line.startswith("first run of the long file") for line in noted)
    clip = parts["clip"]["by_seconds"]["2"]
    assert clip["times"]["scribewire"]["count"] == 1
    assert 0.0 < sum(clip["phases"].values()) < clip["times"]["scribewire"]["median"]
    assert clip["peak_resident_bytes"]["scribewire"] > 10**7
    assert parts["clip"]["ran"]["device"] == "cpu"


def test_the_server_of_a_benchmark_wants_its_key_and_decodes_the_same_recording_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIBEWIRE_LOG_LEVEL", "none that there is; a benchmark does not read it")
    with scribewire_server(demo_model_path(), tmp_path / "data", device="cpu") as server:
        assert server.address.startswith("127.0.0.1:")
        caller = Caller(server)
        texts = {caller.transcribe(sample_recordings()[0].path) for _ in range(2)}
        caller.close()
        assert texts == {sample_recordings()[0].reference}
        assert server.key.startswith("sk-scribewire-")


def test_a_childs_last_words_are_its_failure() -> None:
    command = [sys.executable, "-c", "import sys; print('here'); sys.exit('this is why')"]
    heard: list[str] = []
    with started("the child", command) as lines, pytest.raises(ChildFailed, match="child ended: this is why"):
        heard.extend(lines(60.0))
    assert heard == ["here\n"]


def test_a_child_that_says_nothing_is_given_up_and_stopped() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with started("the child", command) as lines, pytest.raises(ChildFailed, match="said nothing within"):
        next(lines(0.2))


def test_noise_of_a_library_is_no_answer() -> None:
    program = (
        "from scribewire.engine.bench import measured\n"
        "def measure(given, say):\n"
        "    print('noise of a library')\n"
        "    say(found={'half': given['number'] / 2})\n"
        "measured.main({'half': measure})"
    )
    command = [sys.executable, "-c", program, "half", '{"number": 4}']
    with started("the child", command) as lines:
        assert [json.loads(line) for line in lines(60.0)] == [{"found": {"half": 2.0}}]
