"""`scribewire bench`: what its flags mean, what it refuses, and what its document and table say."""

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import scribewire.engine.cli
from scribewire.engine.bench.measuring import shown_seconds, summary
from scribewire.engine.bench.plan import PARTS, Plan, PlanInvalid
from scribewire.engine.bench.report import ROWS, table
from scribewire.engine.cli.bench import plan_of
from scribewire.engine.processes.console import Console


def parsed(*words: str) -> argparse.Namespace:
    return scribewire.engine.cli.build_parser().parse_args(["bench", *words])


def plan(*words: str) -> Plan:
    return plan_of(parsed(*words), Plan)


def run_command(*words: str) -> tuple[int, str, str]:
    console = Console(io.BytesIO(), io.StringIO(), io.StringIO())
    code = scribewire.engine.cli.main(["bench", *words], console=console)
    assert isinstance(console.stdout, io.StringIO)
    assert isinstance(console.stderr, io.StringIO)
    return code, console.stdout.getvalue(), console.stderr.getvalue()


def test_without_flags_the_default_model_ends_by_itself_in_every_part() -> None:
    assert plan() == Plan()
    assert plan().subject()["tokens_per_second"] == 0.0
    assert plan().parts == PARTS


def test_flags_become_fields_of_the_plan() -> None:
    chosen = plan("--only", "step", "clip", "--rows", "1", "64", "--clients", "32", "--long-seconds", "3600")
    assert (chosen.parts, chosen.rows, chosen.clients) == (("step", "clip"), (1, 64), (32,))
    assert chosen.long_seconds == 3600.0


def test_quick_keeps_what_was_given_as_a_flag() -> None:
    chosen = plan("--quick", "--rows", "2", "--model", "demo")
    assert chosen == replace(Plan(model="demo").quick(), rows=(2,))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--rows", "0"], "from 1"),
        (["--clip-seconds", "31"], "30 seconds long or less"),
        (["--long-seconds", "1"], "2 seconds long or more"),
        (["--long-file", "nothing-here.wav"], "there is no file"),
        (["--long-file", __file__], "is no WAV file"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(words: list[str], reason: str) -> None:
    with pytest.raises(PlanInvalid, match=reason):
        plan(*words)
    code, out, err = run_command(*words)
    assert (code, out) == (2, "")
    assert reason in err
    assert "bench --help" in err


def test_a_model_that_is_not_there_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    code, out, err = run_command("--model", str(tmp_path / "nothing"), "--only", "limits")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1


def test_results_of_other_settings_are_told_apart() -> None:
    first = Plan(model="demo")
    assert first.settings("clip") == replace(first, steps=1, clients=(2,)).settings("clip")
    assert first.settings("clip") != replace(first, rounds=1).settings("clip")
    # As they come back from a file.
    for part in PARTS:
        assert json.loads(json.dumps(first.settings(part))) == first.settings(part)


def test_the_subject_says_nothing_of_where_things_lie(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert Plan(model=str(folder)).subject()["model"] == "my-model"
    assert Plan(model="org/name").subject()["model"] == "org/name"


def one_side(median: float, *, tokens: int = 35) -> dict[str, Any]:
    return {
        "times": {"scribewire": summary([median])},
        "output_tokens": {"scribewire": tokens},
        "peak_resident_bytes": {"scribewire": 5 * 10**8},
        "peak_mlx_bytes": 7 * 10**8,
    }


def document() -> dict[str, Any]:
    step = {
        "step": summary([0.003]),
        "tokens_per_second": 333.3,
        "share_of_bandwidth": 0.1,
        "share_of_products": 0.002,
    }
    load = {
        "requests_per_second": summary([12.5]),
        "p50": summary([0.08]),
        "p95": summary([0.1]),
    }
    return {
        "subject": Plan(model="org/name").subject(),
        "machine": {"cpu": "A CPU", "cores": 8, "system": "Darwin arm64"},
        "versions": {"python": "3.12.1", "mlx": "0.32.4"},
        "engine": {"dtype": "bfloat16", "device": "gpu", "device_description": {"device_name": "A GPU"}},
        "parts": {
            "limits": {
                "bandwidth": {"bytes_per_second": 4.3e12},
                "products": {"operations_per_second": 5.68e14, "size": 4096},
            },
            "load": {"ready": summary([1.5]), "load": summary([0.5]), "resident_bytes": 10**9},
            "step": {"by_rows": {"1": step}},
            "clip": {"by_seconds": {"10": one_side(0.1)}},
            "clients": {"by_clients": {"32": {"loads": {"scribewire": load}, "p95_over_idle": 2.25}}},
            "long": one_side(12.0)
            | {
                "audio_seconds": 3600.0,
                "times_real_time": 300.0,
                "first_run_seconds": {"scribewire": 41.5},
            },
        },
    }


def test_the_table_names_numbers_of_rows_that_are_not_worth_their_place() -> None:
    held = document()
    one = held["parts"]["step"]["by_rows"]["1"]
    seconds = {"1": 0.003, "8": 0.005, "12": 0.009, "16": 0.008, "32": 0.010}
    held["parts"]["step"]["by_rows"] = {
        rows: one | {"step": summary([took])} for rows, took in seconds.items()
    }
    remarks = [line.partition("; no slower than ")[2] for line in table(held) if "decode step" in line]
    assert remarks == ["", "", "", "12 rows", ""]


def test_the_table_holds_every_part_with_its_figures() -> None:
    held = document()
    held["parts"]["load"] = {"error": "the engine ended"}
    lines = table(held)
    text = "\n".join(lines)
    for wanted in (
        "org/name",
        "computing in bfloat16 on the gpu A GPU",
        "4300.0 GB/s",
        "568 TFLOP/s",
        "333 tokens/s; 10% of bandwidth, 0.2% of products",
        "35 tokens",
        "p50 80.0 ms, p95 100.0 ms, 2.25 x idle",
        "300 x",
        "700 MB",
        "the engine ended",
    ):
        assert wanted in text, wanted
    assert any(line.startswith("decode step, 1 row ") and "3.0 ms" in line for line in lines)
    assert any(line.startswith("of that file, a process's first run") and "41.50 s" in line for line in lines)
    assert any(line.startswith("32 clients ") and "12.50 req/s" in line for line in lines)


def test_times_are_shown_in_the_unit_that_fits() -> None:
    assert [shown_seconds(value) for value in (0.0003, 0.0123, 1.5, 250.0)] == [
        "0.300 ms",
        "12.3 ms",
        "1.50 s",
        "250 s",
    ]


def test_every_part_has_rows_in_the_table() -> None:
    held = document()["parts"]
    assert set(held) == set(PARTS)
    assert tuple(ROWS) == PARTS
