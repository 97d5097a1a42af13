"""A real server as a program of its own: arguments are its settings (JSON), its data folder, the worker's module and
the soft and hard limit on descriptors (JSON; 0 leaves one)."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from scribewire.server.serve import serve
from scribewire.server.settings.fields import Settings
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from tests.fakes.pass_through import PassThrough


def main(arguments: list[str]) -> int:
    """Serve until a signal."""
    settings, data, engine_module, descriptors = arguments
    soft, hard = json.loads(descriptors)
    now_soft, now_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft or now_soft, hard or now_hard))
    # A library that was loaded into this process (another clock) is not meant for its children.
    os.environ.pop("LD_PRELOAD", None)
    return serve(
        Settings(**{**json.loads(settings), "data": Path(data)}),
        engine_module=engine_module,
        # The fake engine is sent scripts, which no decoder reads; one that only counts is sent recordings.
        transcoder=PassThrough() if engine_module == FAKE_WORKER_MODULE else None,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
