"""Memory growth of a resident engine with distinct lengths: `python -m tools.bench.memory_growth`.

Transcribes 250 clips of distinct lengths, alone and side by side, the eight longest first, and compares the most that
was resident in the last 50 with the most in the first 50: allocators give and take, growth is what stays. Target:
within 5 % over the 200 lengths between.
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import psutil

from scribewire.engine.resident.memory import memory_use
from scribewire.engine.transcriber import TranscribeItem, Transcriber
from tools.bench.clips import speech
from tools.bench.measuring import RESULTS_FOLDER, machine, write_result

WINDOW_CLIPS = 50
CLIPS = 250
SIDE_BY_SIDE = 8
TARGET_RATIO = 1.05


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--longest", type=float, default=12.0, help="longest clip in seconds")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    chance = random.Random(0)
    count = CLIPS
    lengths = [int(16_000 * (0.5 + (arguments.longest - 0.5) * i / count)) + i % 7 for i in range(count)]
    chance.shuffle(lengths)
    # The most that any batch will need is needed at the start, so that what comes later is growth and nothing else.
    longest = sorted(lengths)[-SIDE_BY_SIDE:]
    lengths = longest + [one for one in lengths if one not in longest]
    audio = speech(arguments.longest + 1)
    points: list[dict[str, Any]] = []
    with Transcriber(arguments.model) as engine:
        done = 0
        while done < count:
            size = chance.choice([1, 1, 3, SIDE_BY_SIDE]) if done else SIDE_BY_SIDE
            group = lengths[done : done + size]
            engine.transcribe_many([TranscribeItem(audio[:length].copy(), logprobs=True) for length in group])
            done += len(group)
            use = memory_use()
            points.append(
                {
                    "clips": done,
                    "resident_bytes": psutil.Process().memory_info().rss,
                    "active_bytes": use.active_bytes,
                    "cache_bytes": use.cache_bytes,
                }
            )
            print(
                f"\r{done} of {count} clips, {points[-1]['resident_bytes'] / 1e6:.0f} MB",
                end="",
                file=sys.stderr,
            )
    print(file=sys.stderr)
    before = max(one["resident_bytes"] for one in points if one["clips"] <= WINDOW_CLIPS)
    after = max(one["resident_bytes"] for one in points if one["clips"] > count - WINDOW_CLIPS)
    ratio = after / before
    print(
        f"first {WINDOW_CLIPS}: {before / 1e6:.0f} MB, last {WINDOW_CLIPS}: {after / 1e6:.0f} MB: {ratio:.3f} x"
    )
    content = {
        "machine": machine(),
        "model": arguments.model,
        "before_bytes": before,
        "after_bytes": after,
        "ratio": round(ratio, 4),
        "target": TARGET_RATIO,
        "met": ratio <= TARGET_RATIO,
        "points": points,
    }
    write_result("memory_growth", "python -m tools.bench.memory_growth", content, arguments.out)


if __name__ == "__main__":
    main()
