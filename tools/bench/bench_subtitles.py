"""Time for the subtitles of a ten-hour transcript: cues and a file of them, with word times and without.

English at about 150 words a minute. Nothing fails because it is slow.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.transcript import Segment
from scribewire.engine.subtitles import Cue, cues_from_segments, render_srt, render_vtt
from tests.fakes.subtitle_speech import long_transcript
from tools.bench.measuring import machine, show, summary, write_result

HOURS = 10.0
RUNS = 9
SECONDS_TARGET = 1.0


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tools/bench/results)")
    arguments = parser.parse_args()
    at_start = machine()
    rows = []
    counts: dict[str, int] = {}
    for has_words, name in ((True, "by words"), (False, "by segments")):
        segments = long_transcript(HOURS, has_words=has_words)
        counts["words"] = sum(len(segment.text.split()) for segment in segments)
        counts[f"cues, {name}"] = len(cues_from_segments(segments))
        for kind, render in (("srt", render_srt), ("vtt", render_vtt)):
            seconds = [timed(segments, render) for _ in range(RUNS)]
            rows.append((f"{kind} of {HOURS:g} h, {name}", summary(seconds, target=SECONDS_TARGET, unit="s")))
    show(rows)
    content: dict[str, Any] = {"machine": at_start, "hours": HOURS, "counts": counts, "results": dict(rows)}
    folder = {"folder": arguments.out} if arguments.out else {}
    written = write_result("subtitles", "python -m tools.bench.bench_subtitles", content, **folder)
    print(f"written: {written.name}")


def timed(segments: list[Segment], render: Callable[[list[Cue]], str]) -> float:
    """Seconds from segments to a file's text."""
    began = time.perf_counter()
    render(cues_from_segments(segments))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
