"""The database's layout as ordered SQL files, and the one function that brings a database up to date with them.

`NNNN_name.sql` leads from version NNNN - 1 to NNNN, which `PRAGMA user_version` holds; a file that was released is
never edited. Refuses a database of a later version.
"""

from __future__ import annotations

import sqlite3
from importlib import resources
from itertools import pairwise


class DatabaseTooNew(Exception):
    """The database was written by a later version of this program."""


def migrations() -> list[tuple[int, str]]:
    """Version and SQL of every step, in order."""
    files = [one for one in resources.files(__name__).iterdir() if one.name.endswith(".sql")]
    steps = sorted((int(one.name[:4]), one.read_text(encoding="utf-8")) for one in files)
    if [version for version, _ in steps] != list(range(1, len(steps) + 1)):
        raise AssertionError("the migrations are not numbered 1, 2, 3 and so on")
    return steps


def migrate(connection: sqlite3.Connection, steps: list[tuple[int, str]] | None = None) -> int:
    """Apply every step that is missing, each in a transaction of its own; returns the version. Raises DatabaseTooNew.

    connection: in autocommit mode (isolation_level None).
    """
    steps = migrations() if steps is None else steps
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise DatabaseTooNew(
            f"the job database has version {version} and this program knows versions up to {len(steps)}; "
            "use the program that wrote it, or a folder of its own for this one"
        )
    for number, script in steps[version:]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        version = number
    return version


def statements(script: str) -> list[str]:
    """A script taken apart. (executescript would commit by itself.)"""
    ends = [0, *(i + 1 for i, character in enumerate(script) if character == ";")]
    found: list[str] = []
    pending = ""
    for start, end in pairwise(ends):
        pending += script[start:end]
        # A semicolon inside a trigger, a text or a comment ends nothing.
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    return found
