"""A child that misbehaves on cue: what runs when a test names this module as any child's.

Each message is a JSON object of bytes, whose keys are obeyed in this order: `deaf` (ignore SIGTERM), `flood` (write so
many bytes to standard error, and as many to standard output), `exit` (leave with this code). It answers "done", and
leaves with 0 when the pipe is closed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from multiprocessing.connection import Connection

LINE = "flood " * 15 + "flood\n"


def main(setup: object, pipe: Connection) -> int:
    """Obey until the pipe is closed."""
    while True:
        try:
            script = json.loads(pipe.recv_bytes())
        except EOFError:
            return 0
        if script.get("deaf"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for stream in (sys.stderr, sys.stdout):
            for _ in range(script.get("flood", 0) // len(LINE)):
                stream.write(LINE)
            stream.flush()
        if "exit" in script:
            print("last words", file=sys.stderr, flush=True)
            os._exit(script["exit"])
        pipe.send_bytes(b"done")
