"""Command lines of all commands: their parser, and the nearest known name for a misspelt one.

A parser without its arguments prints its help, and a command line that makes no sense is answered with the usage of the
command that was typed; the exit code is 2 for both.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from typing import Any

EXIT_USAGE = 2


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with texts as written, and a column wide enough for the flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


class CommandParser(argparse.ArgumentParser):
    """The parser of a command, and of its actions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})
        self._actions_by_name: dict[str, Any] | None = None

    def add_subparsers(self, **options: Any) -> Any:
        """See ArgumentParser."""
        added = super().add_subparsers(**options)
        self._actions_by_name = added.choices
        return added

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """See ArgumentParser; refuses what is left over here, where the command is known."""
        words = sys.argv[1:] if args is None else list(args)
        known = self._actions_by_name
        if known is not None and not words:
            self.print_help()
            self.exit(EXIT_USAGE)
        if known is not None and not words[0].startswith("-") and words[0] not in known:
            self.error(
                f"there is no `{self.prog} {words[0]}`{nearest(words[0], known) or '; --help lists what there is'}"
            )
        found, left = super().parse_known_args(words, namespace)
        if left and known is None:
            flags = [flag for action in self._actions for flag in action.option_strings]
            hint = nearest(left[0].partition("=")[0], flags) if left[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{hint}")
        return found, left


def nearest(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """` (did you mean NAME?)` with the nearest known name; empty where none is near. prefix: of all names."""
    near = difflib.get_close_matches(word, [*known], n=1, cutoff=0.7)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""
