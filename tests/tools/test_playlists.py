"""Playlists and movies that refer to other files open none of them, whatever they are called and however disguised."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from scribewire.engine.protocol.transcoding import TranscodeLimits
from tests.fakes.media_files import recording
from tests.fakes.raw_http import ask, error_of, post_request
from tests.fakes.served import Served
from tools.hostile.campaign import AUDIO_ERROR_CODES
from tools.hostile.child_under_test import ChildUnderTest
from tools.hostile.listener import Listener
from tools.hostile.playlists import DISGUISES, Playlist, playlists

pytestmark = pytest.mark.process

_UNREAD = 1_000_000_000


class Trap:
    """A folder with the canary, and a listener; says whether either was touched."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        self.folder = folder
        self.listener = listener
        self.canary = folder / "canary.wav"
        self.canary.write_bytes(recording("wav-s16"))
        self.arm()
        self.canary.read_bytes()
        self.shows_reading = self.canary.stat().st_atime != _UNREAD
        self.arm()

    def arm(self) -> None:
        """Make the next reading show: it is noted when the last one is older than the file."""
        os.utime(self.canary, (_UNREAD, _UNREAD + 1))

    def is_untouched(self) -> bool:
        """True when no file was read (as far as this disk notes reading) and no connection was made."""
        return self.canary.stat().st_atime == _UNREAD and self.listener.connections == 0

    def playlists(self) -> list[Playlist]:
        return playlists(self.canary, self.listener.url)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    with Listener() as listener:
        yield Trap(tmp_path, listener)


def unguarded(path: Path, *, format: str | None) -> int:
    """Samples that a decoder without our lists finds behind a file."""
    options = {
        "safe": "0",
        "allowed_extensions": "ALL",
        "extension_picky": "0",
        "protocol_whitelist": "file,http,tcp,subfile,concat,crypto,data",
    }
    with av.open(str(path), format=format, options=options) as container:
        return sum(frame.samples for frame in container.decode(audio=0))


@pytest.mark.parametrize(
    ("name", "format", "calls"),
    [
        ("ffconcat, path, as it is", None, False),
        ("ffconcat, relative name, as it is", None, False),
        ("ffconcat, path, zero at its end", None, False),
        ("ffconcat, listener, as it is", None, True),
        ("hls, path, as it is", "hls", False),
    ],
)
def test_decoder_without_our_lists_does_read_the_canary(
    trap: Trap, name: str, format: str | None, calls: bool
):
    """The files are dangerous, and the trap shows it."""
    (playlist,) = [one for one in trap.playlists() if one.name == name]
    path = trap.folder / playlist.file_name
    path.write_bytes(playlist.content)
    assert unguarded(path, format=format) == 16_000
    assert bool(trap.listener.asked) == calls
    if trap.shows_reading or calls:
        assert not trap.is_untouched()


def test_no_playlist_in_any_disguise_reads_a_file_or_calls_anyone(trap: Trap):
    files = trap.playlists()
    assert len(files) > 1_000
    with ChildUnderTest(trap.folder, limits=TranscodeLimits(recordings=1 << 30)) as child:
        for playlist in files:
            path = trap.folder / playlist.file_name
            path.write_bytes(playlist.content)
            outcome = child.decode(path)
            assert outcome.name in AUDIO_ERROR_CODES, (playlist.name, outcome)
        assert child.record.children == 1
    assert trap.is_untouched()


def test_every_disguise_is_400_over_http(trap: Trap):
    files = trap.playlists()
    some = [one for one in files if one.name.startswith(("hls, ", "ffconcat, ", "sdp, ", "reference movie"))]
    some = [one for one in some if ", path" in one.name or ", listener" in one.name]
    assert len(some) >= 2 * 3 * len(DISGUISES)
    with Served(trap.folder / "data") as served:
        for playlist in some:
            error = error_of(ask(served.port, post_request(served.port, playlist.content)))
            assert error["code"] in AUDIO_ERROR_CODES, (playlist.name, error)
            assert error["type"] == "invalid_request_error"
        assert served.failures_in_log() == []
        assert served.leftovers() == []
    assert trap.is_untouched()
