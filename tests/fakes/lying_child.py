"""A decode child that lies: what runs when a test names this module as the children's. The recording is its answer."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from scribewire.engine.protocol.transcoding import (
    Transcode,
    TranscodeLimits,
    TranscodeTaken,
    parse_to_transcoder,
    to_line,
)


def main(limits: TranscodeLimits, pipe: Connection) -> int:
    """Say what the recording says, or leave at once, and then do nothing."""
    os.write(pipe.fileno(), b'{"type": "TranscoderReady", "process_id": 1}\n')
    received = b""
    while not received.endswith(b"\n"):
        received += os.read(pipe.fileno(), 1 << 16)
    task = parse_to_transcoder(received)
    assert isinstance(task, Transcode)
    if Path(task.input_path).read_bytes() == LEAVE:
        return 0
    os.write(pipe.fileno(), to_line(TranscodeTaken(task.task_id)) + Path(task.input_path).read_bytes())
    threading.Event().wait(600)
    return 0


LEAVE = b"leave without a word"
LIE = (
    '{"type": "Transcoded", "task_id": %d, "decode_seconds": 0.1, "sample_count": %d, "warnings": [], '
    '"is_last": %s}\n'
)
