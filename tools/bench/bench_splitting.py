"""Cost of cutting an hour of audio on one core: `python -m tools.bench.bench_splitting`.

The demo recordings, one after the other with pauses of 0.3 to 3 s, fill the hour, which is read in blocks of 10 s as
the engine reads it. Processor time counts, not the clock: machines are shared. Targets: by loudness 4 s, by Silero's
voice detector 180 s, its process included.
"""

import argparse
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scribewire.engine.audio.labels import VoiceLabels
from scribewire.engine.audio.pauses import Chunk, PauseSplitter
from scribewire.engine.audio.recording import OpenRecording
from scribewire.engine.audio.split import StreamingSplitter
from scribewire.engine.audio.vad import DetectorProcess, SileroDetector
from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits, Chunking
from tools.bench.measuring import RESULTS_FOLDER, machine, show, summary, write_result

HOUR_SECONDS = 3600.0
BLOCK_SAMPLES = 10 * SAMPLE_RATE_HZ
TARGETS = {"pauses": 4.0, "quietest": 4.0, "voice": 180.0}


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=HOUR_SECONDS, help="audio (default: an hour)")
    parser.add_argument("--rounds", type=int, default=5, help="of the rules that go by loudness")
    parser.add_argument("--voice-rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    samples = speech_of(arguments.seconds)
    rules: dict[str, tuple[Callable[[], float], int]] = {
        "pauses": (lambda: _timed(PauseSplitter(new_detector=SileroDetector), samples), arguments.rounds),
        "quietest": (lambda: _timed(StreamingSplitter(), samples), arguments.rounds),
        "voice": (lambda: _timed_voice(samples), arguments.voice_rounds),
    }
    rows: list[tuple[str, dict[str, Any]]] = []
    for name, (measure, rounds) in rules.items():
        rows.append((name, summary([measure() for _ in range(rounds)], target=TARGETS[name])))
    show(rows)
    content = {
        "machine": machine(),
        "audio_seconds": arguments.seconds,
        "time": "processor time of the process and of the detector's, seconds",
        **dict(rows),
    }
    write_result("splitting", "python -m tools.bench.bench_splitting", content, arguments.out)


def speech_of(seconds: float) -> np.ndarray:
    """(n,) float32: the demo recordings by turns, with pauses between."""
    random = np.random.default_rng(0)
    spoken: list[np.ndarray] = []
    for sample in sample_recordings():
        recording = OpenRecording(sample.path, limits=AudioLimits())
        spoken += [chunk.samples for chunk in recording.chunks() if chunk is not None]
        recording.close()
    wanted = int(seconds * SAMPLE_RATE_HZ)
    pieces: list[np.ndarray] = []
    count = 0
    while count < wanted:
        pause = np.zeros(int(random.uniform(0.3, 3.0) * SAMPLE_RATE_HZ), dtype=np.float32)
        pieces += [spoken[len(pieces) // 2 % len(spoken)], pause]
        count += len(pieces[-2]) + len(pause)
    return np.concatenate(pieces)[:wanted]


def _blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), BLOCK_SAMPLES):
        yield samples[start : start + BLOCK_SAMPLES]


def _timed(splitter: PauseSplitter | StreamingSplitter, samples: np.ndarray) -> float:
    started = _processor_seconds(resource.RUSAGE_SELF)
    chunks: list[Chunk] = []
    for block in _blocks(samples):
        chunks += splitter.feed(block)
    chunks += splitter.finish()
    assert chunks
    return _processor_seconds(resource.RUSAGE_SELF) - started


def _timed_voice(samples: np.ndarray) -> float:
    children = _processor_seconds(resource.RUSAGE_CHILDREN)
    process = DetectorProcess()
    detector = SileroDetector(process)
    own = _timed(PauseSplitter(VoiceLabels(detector, Chunking("voice"))), samples)
    detector.close()
    # A child's time is known once it has ended.
    process.close()
    return own + _processor_seconds(resource.RUSAGE_CHILDREN) - children


def _processor_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    main()
