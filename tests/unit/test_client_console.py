"""Bars of the client's commands: on a terminal only, not too often, and gone in the end."""

from __future__ import annotations

import io

from scribewire.engine.processes.console import table
from scribewire.server.client.console import Console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(stderr: io.StringIO, *, steps: int) -> str:
    console = Console(io.BytesIO(), io.StringIO(), stderr)
    with console.bar("talk.mp3", "bytes") as bar:
        for step in range(1, steps + 1):
            bar.advance(step, steps)
    return stderr.getvalue()


def test_bar_is_drawn_on_a_terminal_to_its_end():
    drawn = shown(Terminal(), steps=5)
    assert "talk.mp3 100%" in drawn
    assert drawn.endswith("\r")


def test_nothing_is_drawn_where_nobody_looks():
    assert shown(io.StringIO(), steps=5) == ""


def test_fast_progress_is_not_drawn_every_time():
    assert shown(Terminal(), steps=20_000).count("\r") < 2_000


def test_columns_of_a_table_are_aligned_and_the_last_one_is_left_alone():
    assert table([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]


def test_table_fits_its_terminal_by_cutting_the_widest_column_but_the_first():
    rows = [("key_" + "1" * 20, "n" * 40, "short"), ("key", "n", "m" * 30)]
    lines = table(rows, columns=60)
    assert [len(line) <= 60 for line in lines] == [True, True]
    assert lines[0].startswith("key_" + "1" * 20 + "  nn")
    assert "..." in lines[0]
    assert table(rows, columns=10)[0].split()[0] == "key_" + "1" * 20
