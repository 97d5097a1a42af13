"""A child that sends nonsense: what runs when a test names this module as any child's."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection

NONSENSE = bytes(range(255, -1, -1)) * 64
"""As the length of a message it is negative, which none is."""


def main(setup: object, pipe: Connection) -> int:
    """Send bytes that are no message of any child, and then do nothing."""
    os.write(pipe.fileno(), NONSENSE)
    threading.Event().wait(600)
    return 0
