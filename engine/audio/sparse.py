"""Detect a file that holds next to no bytes for its audio, and count such a file to its end before transcoding it.

Speech needs 700 bytes a second even at a codec's lowest rate. What needs less than 100 is silence, or a bomb: a few
kilobytes that hold days. Decoding it up to the limit would take minutes; counting it takes about a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import av
import av.audio.stream
import av.container

from scribewire.engine.audio.pcm import check_duration
from scribewire.engine.protocol.config import AudioLimits

SPARSE_BYTES_PER_SECOND = 100.0
FIRST_CHECK_SECONDS = 60.0


class SparseWatch:
    """Checks the rate since the last check after a minute, two, four and so on, until it found it sparse once."""

    def __init__(self) -> None:
        self._packet_bytes = 0
        self._last_check = (0.0, 0)
        self._next_check_seconds = FIRST_CHECK_SECONDS

    def add_packet(self, size_bytes: int) -> None:
        """Count a packet that was decoded."""
        self._packet_bytes += size_bytes

    def finds_sparse(self, position_seconds: float) -> bool:
        """True when the file should be counted to its end now; so once at most."""
        if position_seconds <= self._next_check_seconds:
            return False
        seconds, size_bytes = position_seconds - self._last_check[0], self._packet_bytes - self._last_check[1]
        is_sparse = size_bytes < SPARSE_BYTES_PER_SECOND * seconds
        self._last_check = (position_seconds, self._packet_bytes)
        self._next_check_seconds = math.inf if is_sparse else 2.0 * position_seconds
        return is_sparse


def check_counted_duration(
    container: av.container.InputContainer,
    track: av.audio.stream.AudioStream,
    limits: AudioLimits,
    *,
    on_packet: Callable[[], None],
) -> None:
    """Raise AudioTooLong as soon as the packets of a track last longer than the limit.

    container: freshly opened. on_packet: called often, for it takes a second; may raise to end it.
    Lets what the library raises for a damaged container out.
    """
    seconds = 0.0
    tick_seconds = float(track.time_base or 0)
    for packet in container.demux(track):
        on_packet()
        if packet.duration:
            seconds += packet.duration * tick_seconds
        else:  # only the samples show the duration
            seconds += _transcoded_seconds(packet)
        check_duration(seconds - 1.0, limits)  # a second of slack, for what a decoder leaves out at its start


def _transcoded_seconds(packet: av.Packet[av.audio.stream.AudioStream]) -> float:
    try:
        return sum(frame.samples / (frame.sample_rate or 1) for frame in packet.decode())
    except Exception:  # of many types; a damaged packet is left out here as in transcoding
        return 0.0
