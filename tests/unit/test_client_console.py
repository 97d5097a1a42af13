"""Bars of the client's commands: on a terminal only, not too often, and gone in the end."""

from __future__ import annotations

import io

from scribewire.engine.processes.bars import Bar
from scribewire.engine.processes.console import Console, table
from tests.fakes.waiting import wait_until


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


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_bar_moves_between_two_reports_and_its_estimate_is_steady():
    clock = Clock()
    bar = Bar(io.StringIO(), "talk.mp3", "seconds", clock=clock)
    estimates = []
    for done in (0.0, 0.0, 30.0, 60.0, 90.0, 120.0):  # the first batch takes twice as long
        bar.advance(done, 300.0)
        for _ in range(10):
            estimates.append(bar.line(80).rpartition("<")[2].rstrip("]"))
            clock.now += 1.0
    assert estimates[:40] == ["?"] * 40  # not yet watched for as long as the first report took
    left = [
        60 * int(minutes) + int(seconds)
        for minutes, _, seconds in (one.partition(":") for one in estimates[40:])
    ]
    assert left == [*range(70, 50, -1)]
    clock.now += 100.0
    assert "150/300 s of audio" in bar.line(80)  # never beyond the next report as far as it is known
    assert bar.line(40).startswith("talk.mp3")
    assert len(bar.line(40)) <= 40


def test_bar_moves_while_nothing_is_reported():
    stderr = Terminal()
    with Console(io.BytesIO(), io.StringIO(), stderr).bar("loading", "seconds"):
        wait_until(lambda: stderr.getvalue().count("loading") >= 2)


def test_message_stands_on_a_line_of_its_own_above_the_bar():
    stderr = Terminal()
    console = Console(io.BytesIO(), io.StringIO(), stderr)
    with console.bar("talk.mp3", "seconds") as bar:
        bar.advance(1, 2)
        console.warn("the line broke")
        assert "\r\x1b[K\rscribewire: the line broke\n\rtalk.mp3  50%|" in stderr.getvalue()


def test_bar_ends_where_the_result_begins_on_the_same_terminal():
    stdout, stderr = Terminal(), Terminal()
    console = Console(io.BytesIO(), stdout, stderr)
    with console.bar("talk.mp3", "seconds") as bar:
        bar.advance(1, 4)
        console.write("text")
        bar.advance(2, 4)
    assert stderr.getvalue().count("talk.mp3") == 1
    assert stderr.getvalue().endswith("\r")


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
