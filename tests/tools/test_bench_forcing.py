"""Token counts that are forced on peers: the same as ours, by a file that runs under their Python."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import scribewire.engine.batching
import tools.bench.peers
from scribewire.engine.batching.forcing import forced_token_count
from tests.fakes.waiting import PATIENCE_SECONDS

FORCING_FILE = Path(scribewire.engine.batching.__file__).parent / "forcing.py"
RIG_FILE = Path(tools.bench.peers.__file__).parent / "rig.py"


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
