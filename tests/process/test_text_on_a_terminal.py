"""`scribewire transcribe` in a terminal of its own, with the demo model: when text appears, and what Ctrl-C leaves."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ
from tests.fakes.waiting import PATIENCE_SECONDS

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.process


def write_talk(path: Path, seconds: float) -> Path:
    """The shipped recordings in turns: half a second between them, three after every fourth."""
    said = []
    for one in sample_recordings():
        with wave.open(str(one.path), "rb") as file:
            said.append(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        place = 0
        while file.tell() < seconds * SAMPLE_RATE_HZ:
            pause = np.zeros(int((3.0 if place % 4 == 3 else 0.5) * SAMPLE_RATE_HZ), "<i2")
            file.writeframes(said[place % len(said)].tobytes() + pause.tobytes())
            place += 1
    return path


class Terminal:
    """The command in a terminal of its own: all that it shows, and when it showed the first word of text."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scribewire", "transcribe", "--model", "demo", *arguments],
            cwd=PROJECT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, pattern: str) -> float:
        """Read until this is shown; returns the seconds since the start."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not re.search(pattern, self.shown):
            assert select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0], self.shown
            self.shown += os.read(self._ours, 65_536).decode("utf-8", "replace")
        return time.monotonic() - self.started

    def interrupt(self) -> int:
        """Press Ctrl-C and wait for the end; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        self.read_until("interrupted")
        code = self.process.wait(PATIENCE_SECONDS)
        os.close(self._ours)
        return code


def test_text_of_forty_minutes_appears_at_once_in_paragraphs_and_stays_when_interrupted(
    tmp_path: Path,
) -> None:
    terminal = Terminal(str(write_talk(tmp_path / "talk.wav", 2400)))
    seconds = terminal.read_until(r"\x1b\[K\rThe train")  # where the bar was
    print(f"first words of 40 minutes after {seconds:.1f} s")
    terminal.read_until(r"\w\W*\r\n\r\n\w+ \w")
    assert terminal.interrupt() == 130
    assert re.search(r"interrupted at \d:\d\d of 40:", terminal.shown)


def test_interrupted_subtitles_are_kept_beside_their_place(tmp_path: Path) -> None:
    talk = write_talk(tmp_path / "talk.wav", 110)
    terminal = Terminal("-o", str(tmp_path / "out.srt"), str(talk))
    terminal.read_until(r" [1-9]\d*/1\d\d s of audio")  # some segment is done
    assert terminal.interrupt() == 130
    assert "what is there is in" in terminal.shown
    assert (tmp_path / "out.partial.srt").read_text().startswith("1\n00:00:00,")
    assert not (tmp_path / "out.srt").exists()
