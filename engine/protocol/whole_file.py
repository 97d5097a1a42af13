"""Files of results, which are there in full or not at all, and their names."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

STANDARD_INPUT = "-"


def write_whole(target: Path, content: str) -> None:
    """Write text as UTF-8 in place of the old file; raises OSError and then leaves that as it was."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        # mkstemp makes files that only their owner may read; a result has the rights of any new file.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def output_names(files: Sequence[str]) -> list[str]:
    """The name of each file's results, without extension.

    It is the file's stem, its whole name where stems collide, numbered where those do too; compared without case, as
    macOS does.
    """
    paths = [Path("stdin") if name == STANDARD_INPUT else Path(name) for name in files]
    stems = Counter(path.stem.casefold() for path in paths)
    taken: set[str] = set()
    names = []
    for path in paths:
        base = path.stem if stems[path.stem.casefold()] == 1 else path.name
        candidate, number = base, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{base}-{number}"
        taken.add(candidate.casefold())
        names.append(candidate)
    return names
