"""Small files that kept a transcode child busy for a minute: how long each takes it now, and what the samples cost.

    python -m tools.hostile.slow_files [--seconds 100] [--out FILE]

Measures for each file its bytes, the answer, the seconds, and the disk that its samples take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.fakes.media_times import (
    edit_list_bomb,
    flac_of_comments,
    matroska_of_tags,
    mp3_of_fields,
    mp3_of_rates,
)
from tools.hostile.bombs import constant_flac
from tools.hostile.child_under_test import ChildUnderTest
from tools.hostile.connections import Findings

MOST_SECONDS = 2.0
SILENCE = "flac of 11.9 h of silence"
SLOW_FILES: dict[str, Callable[[], bytes]] = {
    "mp4 whose edit list claims 83 h": lambda: edit_list_bomb(100_000),
    "mp4 whose edit list claims 1.7 h": lambda: edit_list_bomb(2_000),
    "flac of a million equal comments": lambda: flac_of_comments(1_000_000),
    "mp3 whose rate changes each frame": lambda: mp3_of_rates(10_000),
    "mp3 of 60,000 tag fields": lambda: mp3_of_fields(60_000),
    "matroska of 60,000 tags": lambda: matroska_of_tags(60_000),
    SILENCE: lambda: constant_flac(rate_hz=8_000, seconds=11.9 * 3600, claimed_seconds=11.9 * 3600),
}


def slow_files(folder: Path, hang_seconds: float = 100.0) -> Findings:
    """All of SLOW_FILES, each in a child of its own. hang_seconds: a file is given up after this time."""
    findings = Findings()
    for name, make in SLOW_FILES.items():
        content = make()
        ended_before = _processor_seconds_of_ended_children()
        with ChildUnderTest(folder, hang_seconds=hang_seconds) as child:
            started = psutil.Process(child.start()).cpu_times()
            outcome = child.decode(content)
            disk_bytes = child.output.stat().st_blocks * 512
        took = _processor_seconds_of_ended_children() - ended_before - started.user - started.system
        findings.measured[name] = {
            "bytes": len(content),
            "answer": outcome.name,
            "seconds": round(outcome.seconds, 2),
            "processor_seconds": round(took, 2),
            "samples": outcome.sample_count,
            "disk_bytes": disk_bytes,
        }
        if name == SILENCE:
            findings.expect(disk_bytes == 0, f"{name} costs no disk: {disk_bytes} bytes")
        else:
            findings.expect(took <= MOST_SECONDS, f"{name}: within {MOST_SECONDS} s of a core: {took:.1f} s")
    return findings


def _processor_seconds_of_ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str]) -> int:
    """Measure all of them; returns 0 when each was done in time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=100.0, help="give a file up after this time")
    parser.add_argument("--out", type=Path, help="where the JSON goes; standard output without")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        findings = slow_files(Path(folder), options.seconds)
    text = json.dumps({"load_average": round(os.getloadavg()[0], 1), **findings.as_json()}, indent=2) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text, encoding="utf-8")
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
