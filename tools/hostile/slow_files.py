"""Small files that kept a transcode child busy for a minute: how long each takes it now, and what the samples cost.

    python -m tools.hostile.slow_files [--seconds 100]

Prints JSON: for each file its bytes, the answer, the seconds, and the disk that its samples take.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.media_times import (
    edit_list_bomb,
    flac_of_comments,
    matroska_of_tags,
    mp3_of_fields,
    mp3_of_rates,
)
from tools.hostile.bombs import constant_flac
from tools.hostile.child_under_test import ChildUnderTest

SLOW_FILES: dict[str, Callable[[], bytes]] = {
    "mp4 whose edit list claims 83 h": lambda: edit_list_bomb(100_000),
    "mp4 whose edit list claims 1.7 h": lambda: edit_list_bomb(2_000),
    "flac of a million equal comments": lambda: flac_of_comments(1_000_000),
    "mp3 whose rate changes each frame": lambda: mp3_of_rates(10_000),
    "mp3 of 60,000 tag fields": lambda: mp3_of_fields(60_000),
    "matroska of 60,000 tags": lambda: matroska_of_tags(60_000),
    "flac of 11.9 h of silence": lambda: constant_flac(
        rate_hz=8_000, seconds=11.9 * 3600, claimed_seconds=11.9 * 3600
    ),
}


def measure(name: str, folder: Path, hang_seconds: float) -> dict[str, Any]:
    """One of SLOW_FILES in a child of its own."""
    content = SLOW_FILES[name]()
    with ChildUnderTest(folder, hang_seconds=hang_seconds) as child:
        child.start()
        outcome = child.decode(content)
        return {
            "bytes": len(content),
            "answer": outcome.name,
            "seconds": round(outcome.seconds, 2),
            "samples": outcome.sample_count,
            "disk_bytes": child.output.stat().st_blocks * 512,
        }


def main(arguments: list[str]) -> int:
    """Measure all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]  # there is one
    parser.add_argument("--seconds", type=float, default=100.0, help="give a file up after this time")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measure(name, Path(folder), options.seconds) for name in SLOW_FILES}
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
