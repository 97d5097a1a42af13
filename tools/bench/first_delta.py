"""Time to the first delta of a streamed transcription: `python -m tools.bench.first_delta`.

A 60 s recording goes to a real server with the demo model; noted are the first delta and the end of the answer, both
from the moment the upload starts. Target: the first delta within half of the whole time.
"""

import argparse
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from scribewire.engine.audio.transcode import transcode_audio
from scribewire.engine.demo import demo_model_path
from scribewire.engine.protocol.config import AudioLimits
from tests.fakes.front_server import FrontServer, front_server
from tools.bench.clips import write_wav
from tools.bench.measuring import RESULTS_FOLDER, machine, show, summary, write_result

SECONDS, ROUNDS, TARGET = 60, 9, 0.5


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        recording = Path(scratch) / "minute.wav"
        write_wav(recording, minute_of_speech())
        with front_server(Path(scratch) / "server", "demo", retry_window_seconds=0.0) as server:
            times = [first_and_last(server, recording) for _ in range(ROUNDS + 1)][1:]
    rows = [
        ("first delta", summary([first for first, _ in times])),
        ("whole answer", summary([last for _, last in times])),
        ("first delta, share of the whole", summary([first / last for first, last in times], target=TARGET)),
    ]
    show(rows)
    content = {"machine": machine(), "recording_seconds": SECONDS, "results": dict(rows)}
    write_result("first_delta", "python -m tools.bench.first_delta", content, arguments.out)


def minute_of_speech() -> np.ndarray:
    """The shipped recording, over and over."""
    said = transcode_audio(
        demo_model_path().parent / "recordings" / "english.wav", limits=AudioLimits()
    ).samples
    count = SECONDS * 16_000
    return np.tile(said, -(-count // said.size))[:count]


def first_and_last(server: FrontServer, recording: Path) -> tuple[float, float]:
    """Seconds to the first delta and to the end."""
    first = 0.0
    address = f"http://{server.host}:{server.port}/v1/audio/transcriptions"
    with recording.open("rb") as file:
        started = time.perf_counter()
        with httpx.stream(
            "POST", address, files={"file": file}, data={"model": "whisper-1", "stream": "true"}, timeout=120
        ) as answer:
            answer.raise_for_status()
            is_done = False
            for line in answer.iter_lines():
                if not first and "transcript.text.delta" in line:
                    first = time.perf_counter() - started
                is_done = is_done or "transcript.text.done" in line
    assert first
    assert is_done
    return first, time.perf_counter() - started


if __name__ == "__main__":
    main()
