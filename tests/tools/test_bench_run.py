"""A developer's benchmark: peers in turn, forced counts, and parts that are written while they go on."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.bench.runner import Note, Results, run
from tests.fakes.tiny_model import write_tiny_model
from tools.bench import runner, side_by_side
from tools.bench.child import ChildFailed, child, run_to_end
from tools.bench.peer_programs import Peer, absent, python_with
from tools.bench.plan import ComparingPlan
from tools.bench.runner import ComparingRunner

SMALL = replace(
    ComparingPlan(model="demo").quick(),
    device="cpu",
    rounds=1,
    row_seconds=2.0,
    rows=(1, 2),
    steps=3,
    loads=1,
)


class Noted(list[str]):
    """Lines of progress that a run printed."""

    def __call__(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def measure(plan: ComparingPlan, out: Path | None, note: Note, *, again: bool = False) -> dict[str, Any]:
    results = Results(plan, "python -m tools.bench", out)
    run(plan, results, note, again=again, kind=ComparingRunner)
    assert results.failed() == []
    return results.document


def test_developers_parts_are_measured_beside_an_owners(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    plan = replace(SMALL, model=str(tiny), parts=("encoder", "prefill", "step"))
    document = measure(plan, out, Noted())
    assert json.loads(out.read_text()) == document
    parts = document["parts"]
    assert parts["encoder"]["by_rows"]["2"]["encode"]["count"] == 1
    assert (
        parts["prefill"]["by_rows"]["2"]["prompt_tokens"] > parts["prefill"]["by_rows"]["1"]["prompt_tokens"]
    )
    # Where numpy multiplies, the graph is cut, and no number is better than a wrong one.
    step = parts["step"]["by_rows"]
    launches = [step[rows]["estimated_launches"] for rows in ("1", "2")]
    assert launches == [None, None] if sys.platform == "linux" else all(count > 20 for count in launches)
    assert (step["1"]["launches_per_token"] is None) == (launches[0] is None)
    assert step["1"]["graph_primitives"] > 0
    assert parts["step"]["memory"]["peak_resident_bytes"] > 10**7


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
    noted = Noted()
    with pytest.raises(KeyboardInterrupt):
        measure(plan, out, noted)
    assert so_far[0]["file_with_short_requests"]["count"] == 1, (
        "what there is is written before the part ends"
    )
    assert so_far[0]["error"].startswith("broken off")
    broken = json.loads(out.read_text())["parts"]["middle"]
    assert broken["error"] == "interrupted"
    assert broken["idle"]["count"] == 5
    assert broken["file_alone"]["count"] == 2
    assert broken["file_with_short_requests"]["count"] == 1
    assert sum(line.startswith("  ") for line in noted) == 4

    monkeypatch.setattr(side_by_side, "short_in_the_middle", original)
    whole = measure(plan, out, Noted())["parts"]["middle"]
    assert "error" not in whole
    assert whole["file_with_short_requests"]["count"] == 2

    monkeypatch.setattr(side_by_side, "short_in_the_middle", once)
    with pytest.raises(KeyboardInterrupt):
        measure(plan, out, Noted(), again=True)
    assert json.loads(out.read_text())["parts"]["middle"] == whole, "what was finished before is kept"


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
    found = measure(plan, None, Noted())["parts"]["long"]
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
    found = measure(plan, None, Noted())["parts"]["long"]
    assert list(found["times"]) == list(found["first_run_seconds"]) == ["scribewire"]
    assert found["failed_peers"] == {"mlx-qwen3-asr": "mlx-qwen3-asr ended"}


def test_forced_counts_reach_the_whole_engine(tiny: Path) -> None:
    from_engine: dict[str, Any] = {}
    for rate in (2.0, 8.0):
        plan = replace(SMALL, model=str(tiny), parts=("clip",), tokens_per_second=rate, clip_seconds=(4.0,))
        found = measure(plan, None, Noted())["parts"]["clip"]["by_seconds"]["4"]
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
    noted = Noted()
    document = measure(plan, None, noted)
    assert document["peers"]["mlx-audio"] == absent("mlx-audio")
    assert "pip install" in document["peers"]["mlx-audio"]["how_to_install"]
    assert any("mlx-audio is not installed" in line for line in noted)
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
    noted = Noted()

    def prepared() -> list[Peer]:
        ready, about = runner.prepared_peers(plan, tmp_path, tmp_path, document, noted)
        document["peers"] = about
        return ready

    first, second = prepared(), prepared()
    assert first == second
    assert tried == ["mlx-audio"]
    assert noted == ["mlx-audio: float16 was found to be fastest before"]
    document["peers"]["mlx-audio"]["weights"] = "unpacked"
    prepared()
    assert tried == ["mlx-audio"] * 2


def test_only_an_interpreter_that_has_the_peer_is_taken() -> None:
    assert python_with("mlx-audio", ("/nowhere/python",)) is None


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
        "from tools.bench.answering import answer_requests\n"
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
