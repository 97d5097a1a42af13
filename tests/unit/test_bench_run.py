"""A benchmark's run: parts are written as they end, kept by the next run, and one that fails leaves the others."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.bench import runner, side_by_side
from engine.bench.child import ChildFailed, child, run_to_end
from engine.bench.peer_programs import Peer, absent, python_with
from engine.bench.plan import Plan, PlanInvalid
from engine.bench.runner import failed_parts, run
from engine.bench.serving import Caller, scribewire_server
from engine.demo import demo_model_path, sample_recordings
from tests.unit.tiny_model import write_tiny_model

SMALL = replace(
    Plan(model="demo").quick(), device="cpu", rounds=1, row_seconds=2.0, rows=(1, 2), steps=3, loads=1
)


class Noted(list[str]):
    """What a run tells of its progress."""

    def __call__(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def test_parts_are_measured_written_and_kept_by_the_next_run(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    plan = replace(SMALL, model=str(tiny), parts=("limits", "step"))
    document = run(plan, "scribewire bench", out, Noted())
    assert json.loads(out.read_text()) == document
    assert failed_parts(document, plan) == []
    step = document["parts"]["step"]["by_rows"]
    assert step["1"]["step"]["count"] == step["2"]["step"]["count"] == 3
    assert step["2"]["tokens_held"] > step["1"]["tokens_held"]
    assert step["1"]["share_of_bandwidth"] > 0.0
    # Where numpy multiplies, the graph is cut, and no number is better than a wrong one.
    launches = [step[rows]["estimated_launches"] for rows in ("1", "2")]
    assert launches == [None, None] if sys.platform == "linux" else all(count > 20 for count in launches)
    assert document["parts"]["step"]["memory"]["peak_resident_bytes"] > 10**7
    assert str(tmp_path) not in out.read_text()

    told = Noted()
    again = run(replace(plan, parts=("limits", "step", "encoder")), "scribewire bench", out, told)
    assert again["parts"]["step"] == document["parts"]["step"]
    assert again["parts"]["encoder"]["by_rows"]["2"]["encode"]["count"] == 1
    assert sum("kept" in line for line in told) == 2

    fewer = run(replace(plan, parts=("step",), rows=(1,)), "scribewire bench", out, Noted())
    assert set(fewer["parts"]["step"]["by_rows"]) == {"1"}
    assert set(fewer["parts"]) == {"limits", "step", "encoder"}


def test_results_of_another_subject_are_not_mixed_in(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    subject = replace(SMALL, dtype="float16").subject()
    out.write_text(json.dumps({"document_version": 1, "subject": subject, "parts": {}}))
    with pytest.raises(PlanInvalid, match="give another --out"):
        run(SMALL, "scribewire bench", out, Noted())
    out.write_text('{"something": "else"}')
    with pytest.raises(PlanInvalid, match="no result of this benchmark"):
        run(SMALL, "scribewire bench", out, Noted())
    assert out.read_text() == '{"something": "else"}'


def test_a_part_that_fails_is_noted_and_measured_by_the_next_run(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    (tiny / "vocab.json").write_text("{")  # the networks do not need it, the engine does
    plan = replace(SMALL, model=str(tiny), parts=("load", "prefill"))
    told = Noted()
    document = run(plan, "scribewire bench", out, told)
    assert failed_parts(document, plan) == ["load"]
    assert "damaged" in document["parts"]["load"]["error"]
    assert "prefill" in document["parts"]["prefill"]["by_rows"]["1"]
    assert any(line.startswith("load failed") for line in told)

    write_tiny_model(tiny)
    mended = run(plan, "scribewire bench", out, Noted())
    assert failed_parts(mended, plan) == []
    assert mended["parts"]["load"]["ready"]["median"] > mended["parts"]["load"]["load"]["median"]
    assert mended["parts"]["prefill"] == document["parts"]["prefill"]


def test_what_a_part_had_found_when_it_was_broken_off_is_kept_and_measured_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    plan = replace(
        SMALL,
        model=str(tiny),
        parts=("middle",),
        tokens_per_second=2.0,
        long_seconds=6.0,
        long_rounds=2,
        short_seconds=2.0,
        short_requests=1,
    )
    original = side_by_side.short_in_the_middle
    rounds: list[object] = []

    so_far: list[Any] = []

    def once(*given: Any) -> object:
        if rounds:
            so_far.append(json.loads(out.read_text())["parts"]["middle"])
            raise KeyboardInterrupt
        rounds.append(original(*given))
        return rounds[0]

    monkeypatch.setattr(side_by_side, "short_in_the_middle", once)
    told = Noted()
    with pytest.raises(KeyboardInterrupt):
        run(plan, "scribewire bench", out, told)
    assert so_far[0]["file_with_short_requests"]["count"] == 1, (
        "what there is is written before the part ends"
    )
    assert so_far[0]["error"].startswith("broken off")
    broken = json.loads(out.read_text())["parts"]["middle"]
    assert broken["error"] == "interrupted"
    assert broken["idle"]["count"] == 5
    assert broken["file_alone"]["count"] == 2
    assert broken["file_with_short_requests"]["count"] == 1
    assert sum(line.startswith("  ") for line in told) == 4

    monkeypatch.setattr(side_by_side, "short_in_the_middle", original)
    whole = run(plan, "scribewire bench", out, Noted())["parts"]["middle"]
    assert "error" not in whole
    assert whole["file_with_short_requests"]["count"] == 2

    monkeypatch.setattr(side_by_side, "short_in_the_middle", once)
    with pytest.raises(KeyboardInterrupt):
        run(plan, "scribewire bench", out, Noted(), again=True)
    assert json.loads(out.read_text())["parts"]["middle"] == whole, "what was finished before is kept"


def test_a_process_first_run_of_the_long_file_is_told_apart(tiny: Path) -> None:
    plan = replace(
        SMALL, model=str(tiny), parts=("long",), tokens_per_second=2.0, long_seconds=6.0, long_rounds=2
    )
    told = Noted()
    found = run(plan, "scribewire bench", None, told)["parts"]["long"]
    assert found["times"]["scribewire"]["count"] == 2
    assert list(found["first_run_seconds"]) == ["scribewire"]
    assert found["first_run_seconds"]["scribewire"] > 0.0
    assert any(line.startswith("first run of the long file") for line in told)


class FakeSide:
    """A process that answers at once; how long it says it took grows with each request."""

    def __init__(self, name: str, *, fails_at: int = -1) -> None:
        self.name = name
        self.started = {"device": "cpu", "dtype": "float32", "weight_bits": 32, "resident_bytes": 1}
        self.asked: list[dict[str, Any]] = []
        self._fails_at = fails_at

    def ask(self, _timeout_seconds: float, **request: Any) -> dict[str, Any]:
        if len(self.asked) == self._fails_at:
            raise ChildFailed(f"{self.name} ended")
        self.asked.append(request)
        phases = dict.fromkeys(("encode_seconds", "prefill_seconds", "generate_seconds"), 0.1)
        sizes = {"peak_mlx_bytes": 1, "peak_resident_bytes": 1, "output_tokens": 1}
        return {"seconds": float(len(self.asked)), "text": "", **phases, **sizes}


def test_everybody_has_run_the_long_file_once_before_it_counts(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {name: FakeSide(name) for name in ("scribewire", "mlx-audio", "mlx-qwen3-asr")}
    monkeypatch.setattr(side_by_side, "_sides", lambda *_: (dict(sides), {}))
    plan = replace(
        SMALL, model=str(tiny), parts=("long",), long_seconds=2.0, long_rounds=2, peer_batches=(4, 8)
    )
    found = run(plan, "scribewire bench", None, Noted())["parts"]["long"]
    # The first request of each is a short clip; mlx-audio's first run is the first that tries a batch size.
    assert found["first_run_seconds"] == {"mlx-audio": 2.0, "scribewire": 2.0, "mlx-qwen3-asr": 2.0}
    assert {name: one["values"] for name, one in found["times"].items()} == {
        "scribewire": [3.0, 4.0],
        "mlx-audio": [4.0, 5.0],
        "mlx-qwen3-asr": [3.0, 4.0],
    }
    assert found["mlx_audio_seconds_by_batch"] == {"4": 2.0, "8": 3.0}
    assert [one.get("batch_size") for one in sides["mlx-audio"].asked] == [None, 4, 8, 4, 4]


def test_a_peer_that_fails_in_its_first_run_leaves_the_long_file_to_the_others(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {"scribewire": FakeSide("scribewire"), "mlx-qwen3-asr": FakeSide("mlx-qwen3-asr", fails_at=1)}
    monkeypatch.setattr(side_by_side, "_sides", lambda *_: (dict(sides), {}))
    plan = replace(SMALL, model=str(tiny), parts=("long",), long_seconds=2.0)
    found = run(plan, "scribewire bench", None, Noted())["parts"]["long"]
    assert list(found["times"]) == list(found["first_run_seconds"]) == ["scribewire"]
    assert found["failed_peers"] == {"mlx-qwen3-asr": "mlx-qwen3-asr ended"}


def test_forced_counts_reach_the_whole_engine(tiny: Path) -> None:
    from_engine: dict[str, Any] = {}
    for rate in (2.0, 8.0):
        plan = replace(SMALL, model=str(tiny), parts=("clip",), tokens_per_second=rate, clip_seconds=(4.0,))
        found = run(plan, "scribewire bench", None, Noted())["parts"]["clip"]["by_seconds"]["4"]
        from_engine[str(rate)] = found["output_tokens"]["scribewire"]
    assert 2.0 * 4 * 0.7 - 1 <= from_engine["2.0"] <= 2.0 * 4 * 1.3 + 1
    assert 8.0 * 4 * 0.7 - 1 <= from_engine["8.0"] <= 8.0 * 4 * 1.3 + 1


def test_a_peer_that_is_not_installed_is_said_so_with_the_way_to_get_it(tiny: Path) -> None:
    plan = replace(
        SMALL,
        model=str(tiny),
        parts=("clip",),
        clip_seconds=(2.0,),
        peers=("mlx-audio",),
        peer_pythons=("/nowhere/python",),
    )
    told = Noted()
    document = run(plan, "scribewire bench", None, told)
    assert document["peers"]["mlx-audio"] == absent("mlx-audio")
    assert "pip install" in document["peers"]["mlx-audio"]["how_to_install"]
    assert any("mlx-audio is not installed" in line for line in told)
    assert list(document["parts"]["clip"]["by_seconds"]["2"]["times"]) == ["scribewire"]


def test_in_which_type_a_peer_is_fastest_is_found_once_for_all_parts_of_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def prepare(name: str, python: str, folder: Path, *rest: Any) -> Peer:
        tried.append(name)
        return Peer(name, python, folder, "float16", 3.5, {"weights": "as given", "dtype": "float16"})

    monkeypatch.setattr(runner, "prepare", prepare)
    monkeypatch.setattr(runner, "python_with", lambda name, pythons: "python")
    plan = replace(SMALL, peers=("mlx-audio",), tokens_per_second=3.5)
    document: dict[str, Any] = {}
    told = Noted()

    def prepared(*, again: bool = False) -> list[Peer]:
        ready, about = runner._prepared_peers(plan, tmp_path, tmp_path, document, told, again=again)
        document["peers"] = about
        return ready

    first, second = prepared(), prepared()
    assert first == second
    assert tried == ["mlx-audio"]
    assert told == ["mlx-audio: float16 was found to be fastest before"]
    prepared(again=True)
    document["peers"]["mlx-audio"]["weights"] = "unpacked"
    prepared()
    assert tried == ["mlx-audio"] * 3


def test_only_an_interpreter_that_has_the_peer_is_taken() -> None:
    assert python_with("mlx-audio", ("/nowhere/python",)) is None


def test_the_server_of_a_benchmark_wants_its_key_and_decodes_the_same_recording_each_time(
    tmp_path: Path,
) -> None:
    with scribewire_server(
        demo_model_path(), tmp_path / "data", device="cpu", dtype="auto", tokens_per_second=0.0
    ) as server:
        assert server.address.startswith("127.0.0.1:")
        caller = Caller(server)
        texts = {caller.transcribe(sample_recordings()[0].path) for _ in range(2)}
        caller.close()
        assert texts == {sample_recordings()[0].reference}
        assert server.key.startswith("sk-scribewire-")


def test_a_childs_last_words_are_its_failure(tmp_path: Path) -> None:
    with (
        pytest.raises(ChildFailed, match="the child ended: this is why"),
        child("the child", [sys.executable, "-c", "import sys; sys.exit('this is why')"], runs_in=tmp_path),
    ):
        raise AssertionError("it did not start")
    with pytest.raises(ChildFailed, match="it failed: this is why"):
        run_to_end("it", [sys.executable, "-c", "import sys; sys.exit('this is why')"], runs_in=tmp_path)


def test_a_childs_error_is_an_answer_and_it_lives_on(tmp_path: Path) -> None:
    code = (
        "from engine.bench.answering import answer_requests\n"
        "def halve(number):\n"
        "    print('noise of a library')\n"
        "    return {'half': 1 / number * number * number / 2}\n"
        "answer_requests({'halve': halve}, ready=True)"
    )
    with child("the child", [sys.executable, "-c", code]) as running:
        assert running.started == {"ready": True}
        with pytest.raises(ChildFailed, match="ZeroDivisionError"):
            running.ask(do="halve", number=0)
        assert running.ask(do="halve", number=4) == {"half": 2.0}
