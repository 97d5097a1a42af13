"""`python -m scribewire`: the command where no `scribewire` is on the PATH."""

from __future__ import annotations

import sys

from scribewire.server.cli import main

if __name__ == "__main__":
    sys.exit(main())
