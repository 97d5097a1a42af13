"""`python -m engine.cli`: the engine's subcommands where no `scribewire` command is installed."""

from __future__ import annotations

import sys

from engine.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
