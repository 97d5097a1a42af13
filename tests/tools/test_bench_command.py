"""`python -m tools.bench`: what its flags add to an owner's, what it refuses, and what its table says."""

import argparse
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.bench.measuring import summary
from scribewire.engine.bench.plan import Plan, PlanInvalid
from scribewire.engine.processes.console import Console
from tools.bench import __main__ as command
from tools.bench.__main__ import build_parser, comparing_plan, main
from tools.bench.measuring import ratio
from tools.bench.plan import PARTS, PEER_NAMES, ComparingPlan
from tools.bench.report import ROWS, table


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


def plan(*words: str) -> ComparingPlan:
    return comparing_plan(parsed(*words))


def run_command(*words: str) -> tuple[int, str, str]:
    console = Console(io.BytesIO(), io.StringIO(), io.StringIO())
    code = main(words, console)
    assert isinstance(console.stdout, io.StringIO)
    assert isinstance(console.stderr, io.StringIO)
    return code, console.stdout.getvalue(), console.stderr.getvalue()


def test_without_flags_the_default_model_ends_by_itself_in_every_part() -> None:
    assert plan() == ComparingPlan()
    assert plan().tokens_per_second == 0.0
    assert plan().parts == PARTS


def test_random_weights_are_forced_to_a_natural_rate() -> None:
    chosen = plan("--random", "0.6b", "--recipe", "8bit")
    assert (chosen.random, chosen.recipe, chosen.tokens_per_second) == ("0.6b", "8bit", 3.5)
    assert plan("--random", "0.6b", "--tokens-per-second", "5").tokens_per_second == 5.0


def test_flags_of_owners_become_fields_of_the_plan() -> None:
    chosen = plan("--only", "step", "clip", "--rows", "1", "64", "--clients", "32", "--long-seconds", "3600")
    assert (chosen.parts, chosen.rows, chosen.clients) == (("step", "clip"), (1, 64), (32,))
    assert chosen.long_seconds == 3600.0


def test_quick_keeps_what_was_given_as_a_flag() -> None:
    chosen = plan("--quick", "--rows", "2", "--model", "demo")
    assert chosen == replace(ComparingPlan(model="demo").quick(), rows=(2,))


def test_compare_takes_all_peers_and_keeps_relative_interpreters_reachable() -> None:
    chosen = plan("--compare", "--peer-python", "PEER/bin/python", "--peer-python", "python3.12")
    assert chosen.peers == PEER_NAMES
    assert chosen.peer_pythons == (os.path.abspath("PEER/bin/python"), "python3.12")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "demo", "--random", "tiny"], "--model and --random"),
        (["--model", "demo", "--recipe", "8bit"], "are for --random"),
        (["--random", "tiny", "--tokens-per-second", "0"], "never end by themselves"),
        (["--peer-python", "python"], "only with --compare"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(words: list[str], reason: str) -> None:
    with pytest.raises(PlanInvalid, match=reason):
        plan(*words)
    code, out, err = run_command(*words)
    assert (code, out) == (2, "")
    assert reason in err
    assert "tools.bench --help" in err


def test_results_of_other_settings_are_told_apart() -> None:
    first = ComparingPlan(model="demo")
    assert first.settings("clip") == replace(first, steps=1, clients=(2,)).settings("clip")
    assert first.settings("clip") != replace(first, rounds=1).settings("clip")
    assert first.settings("clip") != replace(first, peers=PEER_NAMES).settings("clip")
    assert first.settings("step") == replace(first, peers=PEER_NAMES).settings("step")
    # As they come back from a file.
    for part in PARTS:
        assert json.loads(json.dumps(first.settings(part))) == first.settings(part)


def test_the_subject_says_nothing_of_where_things_lie(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert ComparingPlan(model=str(folder)).subject()["model"] == "my-model"
    assert ComparingPlan(model="org/name").subject()["model"] == "org/name"
    assert (
        ComparingPlan(random="0.6b", recipe="4bit", tokens_per_second=3.5).subject()["model"]
        == "random 0.6b 4bit"
    )


def one_side(median: float, *, tokens: int = 35) -> dict[str, Any]:
    return {
        "times": {"scribewire": summary([median]), "mlx-audio": summary([2 * median])},
        "output_tokens": {"scribewire": tokens, "mlx-audio": tokens},
        "time_over_peer": {"mlx-audio": ratio([median] * 3, [2 * median] * 3)},
        "peak_resident_bytes": {"scribewire": 5 * 10**8},
        "peak_mlx_bytes": 7 * 10**8,
    }


def document() -> dict[str, Any]:
    step = {
        "step": summary([0.003]),
        "tokens_per_second": 333.3,
        "share_of_bandwidth": 0.1,
        "share_of_products": 0.002,
        "estimated_launches": 320,
        "launches_per_token": 320.0,
    }
    load = {
        "requests_per_second": summary([12.5]),
        "p50": summary([0.08]),
        "p95": summary([0.1]),
    }
    return {
        "subject": ComparingPlan(random="0.6b", recipe="8bit", tokens_per_second=3.5).subject(),
        "machine": {"cpu": "A CPU", "cores": 8, "system": "Darwin arm64"},
        "versions": {"python": "3.12.1", "mlx": "0.32.4"},
        "engine": {"dtype": "bfloat16", "device": "gpu", "device_description": {"device_name": "A GPU"}},
        "peers": {
            "mlx-audio": {
                "installed": True,
                "versions": {"mlx-audio": "0.6.2"},
                "weights": "as given",
                "dtype": "stored",
            },
            "mlx-qwen3-asr": {"installed": False, "how_to_install": "pip install it"},
        },
        "parts": {
            "limits": {
                "bandwidth": {"bytes_per_second": 4.3e12},
                "products": {"operations_per_second": 5.68e14, "size": 4096},
            },
            "load": {"ready": summary([1.5]), "load": summary([0.5]), "resident_bytes": 10**9},
            "encoder": {"by_rows": {"1": {"encode": summary([0.0032]), "mel": summary([0.0004])}}},
            "prefill": {"by_rows": {"8": {"prefill": summary([0.016]), "prompt_tokens": 1160}}},
            "step": {"by_rows": {"1": step}},
            "clip": {"by_seconds": {"10": one_side(0.1)}},
            "clients": {
                "by_clients": {
                    "32": {
                        "loads": {"scribewire": load, "mlx-audio": load},
                        "p95_over_idle": 2.25,
                        "throughput_over_peer": {"mlx-audio": ratio([25.0], [12.5])},
                    }
                },
                "failed_peers": {"mlx-qwen3-asr": "it ended"},
            },
            "long": one_side(12.0)
            | {
                "audio_seconds": 3600.0,
                "times_real_time": 300.0,
                "first_run_seconds": {"scribewire": 41.5, "mlx-audio": 24.25},
            },
            "middle": {"error": "the server ended"},
        },
    }


def test_the_table_holds_every_part_with_its_figures() -> None:
    lines = table(document())
    text = "\n".join(lines)
    for wanted in (
        "random 0.6b 8bit, 3.5 tokens per second of audio, forced",
        "computing in bfloat16 on the gpu A GPU",
        "mlx-qwen3-asr is not installed: pip install it",
        "mlx-audio 0.6.2: weights as given, stored",
        "4300.0 GB/s",
        "568 TFLOP/s",
        "10% of bandwidth, 0.2% of products; about 320 launches, 320 a token",
        "ours takes 0.50 x (0.50 - 0.50) of it",
        "ours serves 2.00 x",
        "2.25 x idle",
        "300 x",
        "mlx-audio 24.25 s",
        "700 MB",
        "the server ended",
        "it ended",
    ):
        assert wanted in text, wanted
    assert any(line.startswith("encoder, 1 clip ") and "3.2 ms" in line for line in lines)
    assert any(line.startswith("of that file, a process's first run") and "41.50 s" in line for line in lines)
    assert any(line.startswith("prefill, 8 rows ") and "16.0 ms" in line for line in lines)


def test_short_requests_that_came_too_late_are_not_invented() -> None:
    held = document()
    held["parts"] = {
        "middle": {
            "idle": summary([0.1]),
            "file_alone": summary([2.0]),
            "file_with_short_requests": summary([2.1]),
            "short_requests": 0,
            "file_slower_by": 0.05,
        }
    }
    text = "\n".join(table(held))
    assert "the file was over before one could be sent" in text
    assert "+5.0%" in text


def test_every_part_of_owners_is_a_part_here() -> None:
    assert set(Plan().all_parts) < set(PARTS)
    assert {one.name for one in Plan.numbers()} < {one.name for one in ComparingPlan.numbers()}


def test_every_part_has_rows_in_the_table() -> None:
    held = document()["parts"]
    assert set(held) == set(PARTS)
    assert tuple(ROWS) == PARTS


def test_again_finds_out_anew_in_which_type_each_peer_is_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    peers = {"mlx-audio": {"installed": False, "how_to_install": "pip install it"}}
    subject = plan("--model", "demo").subject()
    out.write_text(json.dumps({"document_version": 1, "subject": subject, "parts": {}, "peers": peers}))
    known: list[Any] = []
    monkeypatch.setattr(
        command, "run", lambda plan, results, *_, **__: known.append(results.document.get("peers"))
    )
    words = ("--model", "demo", "--out", str(out), "--json")
    assert run_command(*words)[0] == run_command(*words, "--again")[0] == 0
    assert known == [peers, None]
