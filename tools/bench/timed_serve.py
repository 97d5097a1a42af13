"""`tools.bench.forced_serve` with `tools.bench.timed_worker` for its engine: same arguments."""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import patch

from scribewire.server import serve
from tools.bench import forced_serve

if __name__ == "__main__":
    with patch.object(serve, "serve", partial(serve.serve, engine_module="tools.bench.timed_worker")):
        sys.exit(forced_serve.main(sys.argv[1:]))
