"""A server with the demo model that notes what an upload makes it do; started by `tools.release.walk`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from scribewire.server.serve import serve
from scribewire.server.settings.fields import Settings
from scribewire.server.transcode.pool import TranscodePool
from tools.release import walk_notes

PIPES = "pipes"


def note_pipes(folder: Path) -> None:
    """Write down which two ends belong together of every pair of sockets that our own code makes."""
    make = socket.socketpair

    def noted(*arguments: Any) -> Any:
        ends = make(*arguments)
        if sys._getframe(1).f_globals["__name__"].startswith(walk_notes.OURS):
            with (folder / PIPES).open("a") as file:
                file.write(" ".join(str(os.fstat(end.fileno()).st_ino) for end in ends) + "\n")
        return ends

    socket.socketpair = noted


def main() -> int:
    """Serve until a signal."""
    folder = Path(os.environ[walk_notes.FOLDER])
    note_pipes(folder)
    walk_notes.Notes("front").begin()
    settings = Settings(data=folder / "data", port=0, model="demo", device="cpu")
    # One child, so that it is the warm one that gets each recording.
    transcoder = TranscodePool(processes=1, module=walk_notes.__name__)
    return serve(settings, engine_module=walk_notes.__name__, transcoder=transcoder)


if __name__ == "__main__":
    sys.exit(main())
