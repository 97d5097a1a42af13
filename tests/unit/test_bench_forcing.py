"""Token counts that a benchmark forces: natural on average, varied, and the same for everyone."""

import json
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import engine.batching
import engine.bench.peers
from engine.batching.forcing import SPREAD, forced_token_count
from tests.fakes.waiting import PATIENCE_SECONDS

FORCING_FILE = Path(engine.batching.__file__).parent / "forcing.py"
RIG_FILE = Path(engine.bench.peers.__file__).parent / "rig.py"


def test_the_rate_is_met_on_average_and_each_chunk_stays_within_the_spread() -> None:
    counts = [forced_token_count(30.0, seed) for seed in range(2000)]
    assert abs(statistics.mean(counts) - 105.0) < 1.5
    assert min(counts) >= 105 * (1 - SPREAD) - 1
    assert max(counts) <= 105 * (1 + SPREAD) + 1
    assert len(set(counts)) > 50


def test_the_same_chunk_always_gets_the_same_count() -> None:
    # Pinned: results of different days are compared.
    chunks = [(10.0, 0), (10.0, 480_000), (5.0, 0), (30.0, 0)]
    assert [forced_token_count(*chunk) for chunk in chunks] == [26, 40, 22, 87]


def test_recordings_of_slightly_different_length_end_at_different_steps() -> None:
    counts = {forced_token_count(10.0 - index / 1000, 0) for index in range(32)}
    assert len(counts) > 8


def test_every_chunk_gets_a_token() -> None:
    assert forced_token_count(0.02, 0) == 1
    assert forced_token_count(10.0, 3, tokens_per_second=0.001) == 1


def test_neighboring_seeds_are_not_alike() -> None:
    rising = sum(forced_token_count(30.0, seed) < forced_token_count(30.0, seed + 1) for seed in range(500))
    assert 200 < rising < 300


def test_a_peer_is_told_our_counts_for_its_chunks() -> None:
    rig = runpy.run_path(str(RIG_FILE))
    counts = rig["ForcedCounts"](str(FORCING_FILE), 3.5)
    counts.expect([([0.0] * 160_000, 0.0), ([0.0] * 80_000, 10.0)])
    assert [counts.next(), counts.next()] == [
        forced_token_count(10.0, 0, 3.5),
        forced_token_count(5.0, 160_000, 3.5),
    ]
    assert counts.is_on
    assert not rig["ForcedCounts"](str(FORCING_FILE), 0.0).is_on


def test_the_forcing_file_runs_by_itself_under_another_python() -> None:
    # Isolated and without site packages: nothing of this project, and nothing installed, can be reached.
    code = (
        "import json, runpy, sys; count = runpy.run_path(sys.argv[1])['forced_token_count'];"
        "print(json.dumps([count(10.0, seed) for seed in range(5)]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(FORCING_FILE)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        timeout=PATIENCE_SECONDS,
    )
    assert json.loads(done.stdout) == [forced_token_count(10.0, seed) for seed in range(5)]
