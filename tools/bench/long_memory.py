"""Memory of the engine while it transcribes ten hours: `python -m tools.bench.long_memory`.

Continuous speech without an end (the demo recording again and again, no pause long enough to be left out) is written to
a growing file of samples as a decode child writes it, no more than two minutes ahead of what is transcribed; a scripted
model answers every chunk with a sentence through the real reading, cutting, encoding of mel, cache, batch, scheduler
and joining, and segments are passed on as they come. Resident memory of the process at ten minutes, one hour and ten
hours of audio. Target: ten hours within 10 % of one hour, the segments kept for the transcript included.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from scribewire.engine.audio.recording import OpenRecording, PcmFile
from scribewire.engine.demo import sample_recordings
from scribewire.engine.processes.memory import resident_bytes
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits, EngineConfig
from scribewire.engine.recording.work import Listener, TranscribeItem
from scribewire.engine.transcriber import Transcriber
from tests.fakes.scripted_model import ScriptedModel
from tools.bench.measuring import RESULTS_FOLDER, machine, write_result

MARKS_SECONDS = {"10 min": 600.0, "1 h": 3600.0, "10 h": 36_000.0}
TARGET_RATIO = 1.1
AHEAD_SECONDS = 120.0
ANSWER = "language English<asr_text>A sentence of some length stands for all that was said in half a minute of speech."


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=max(MARKS_SECONDS.values()), help="audio (default: 10 h)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder), arguments.seconds)
    for name, value in figures["resident_bytes"].items():
        print(f"{name:8} {value / 1e6:8.1f} MB")
    write_result(
        "long_memory", "python -m tools.bench.long_memory", {"machine": machine(), **figures}, arguments.out
    )


def _measure(folder: Path, seconds: float) -> dict[str, Any]:
    path = folder / "samples.f32"
    path.touch()
    pcm = PcmFile(path, is_growing=True, expected_seconds=seconds)
    found: dict[str, int] = {}
    progress = {"done": 0.0, "first_segment_at": 0.0, "written": 0.0}

    def on_progress(done: float, _expected: float) -> None:
        progress["done"] = done
        for name, mark in MARKS_SECONDS.items():
            if name not in found and done >= mark - 30.0:
                found[name] = resident_bytes() or 0
                print(f"{name}: {found[name] / 1e6:.1f} MB", flush=True)

    def on_segment(_segment: object) -> None:
        progress["first_segment_at"] = progress["first_segment_at"] or progress["written"]

    transcriber = Transcriber(
        config=EngineConfig(device="cpu", audio=AudioLimits(max_duration_seconds=2 * seconds)),
        load=lambda config, _profile: ScriptedModel(config, folder, lambda _tokens: ANSWER),
    )
    with transcriber:
        started = time.perf_counter()
        work = transcriber.submit(
            TranscribeItem(pcm), listener=Listener(on_progress=on_progress, on_segment=on_segment)
        )
        writer = threading.Thread(target=_write, args=(path, pcm, seconds, progress), daemon=True)
        writer.start()
        transcript = work.future.result()
        wall_seconds = time.perf_counter() - started
    one_hour, ten_hours = found.get("1 h", 0), found.get("10 h", 0)
    ratio = round(ten_hours / one_hour, 4) if one_hour else None
    return {
        "audio_seconds": seconds,
        "segments": len(transcript.segments),
        "first_segment_after_seconds_written": round(progress["first_segment_at"], 1),
        "resident_bytes": found,
        "ratio": ratio,
        "target": TARGET_RATIO,
        "met": ratio is not None and ratio <= TARGET_RATIO,
        "wall_seconds": round(wall_seconds, 1),
    }


def _write(path: Path, pcm: PcmFile, seconds: float, progress: dict[str, float]) -> None:
    """Append speech as long as no more than two minutes of it wait."""
    speech = _speech()
    total = int(seconds * SAMPLE_RATE_HZ)
    written = 0
    with path.open("ab") as file:
        while written < total:
            if written / SAMPLE_RATE_HZ - progress["done"] > AHEAD_SECONDS:
                time.sleep(0.005)
                continue
            part = speech[: total - written]
            file.write(part.tobytes())
            file.flush()
            written += len(part)
            progress["written"] = written / SAMPLE_RATE_HZ
    pcm.end(total)


def _speech() -> np.ndarray:
    recording = OpenRecording(sample_recordings()[0].path, limits=AudioLimits())
    samples = np.concatenate([chunk.samples for chunk in recording.chunks() if chunk is not None])
    recording.close()
    return samples.astype("<f4")


if __name__ == "__main__":
    main()
