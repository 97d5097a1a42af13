"""The real server, started for a benchmark: `python -m tools.bench.forced_serve RATE --port 0 ...` (flags of `serve`).

Two things differ from `scribewire serve`: the environment's settings do not count, so that every server measures the
same, and with a RATE above 0 the engine ends every chunk by a token count of that rate instead of by its
end token. It must change no more: whatever else changed would be measured instead of the server.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from scribewire.engine.protocol.config import EngineConfig
from scribewire.server import cli, serve
from scribewire.server.settings import fields as settings


def main(argv: Sequence[str]) -> int:
    """Serve until a signal; returns the exit code."""
    rate = float(argv[0])
    parsed = cli.build_parser().parse_args(["serve", *argv[1:]])
    chosen = settings.Settings.from_sources(parsed, {}, parsed.config)
    true_config = settings.Settings.engine_config

    def forced_config(own: Any) -> EngineConfig:
        config: EngineConfig = true_config(own)
        return dataclasses.replace(config, forced_tokens_per_second=rate)

    with patch.object(settings.Settings, "engine_config", forced_config):
        return int(serve.serve(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
