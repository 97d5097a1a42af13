"""Any recording to 16 kHz mono float32 samples, as a stream with hard bounds, by PyAV; no system ffmpeg.

By content only: wav, w64, aiff, au, caf, flac, mp3, aac (ADTS), mp4/m4a/mov/3gp, ogg (opus, vorbis, flac), webm, mkv,
amr, avi, mpeg, asf, and so the audio track of a video. It refuses everything not on this list (playlists, images,
devices), never opens a second file, believes no header (duration, channels and rate are counted on what was decoded),
and never lets an exception of the decoding library out: every failure is one of the AudioError types.

The official order is: mean over channels, resample, divide by the peak if it exceeds 1, clip. Here it is the same but
for the division: a stream cannot know its peak before its end, and a gain that depends on the one loudest sample would
change all the others. So what exceeds full scale is clipped, and the rest is left as recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from scribewire.engine.audio.container import OpenContainer
from scribewire.engine.audio.parts import find_parts
from scribewire.engine.audio.pcm import (
    ABSURD_PEAK,
    Resampler,
    Samples,
    check_duration,
    check_not_too_short,
    peak_of,
    prepare_samples,
)
from scribewire.engine.audio.source import first_bytes, open_source, reason
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import (
    AudioFormatUnsupported,
    AudioTooShort,
    AudioTruncated,
    AudioUndecodable,
    AudioUnreadable,
)

__all__ = ["AudioStream", "TranscodedAudio", "open_audio", "prepare_samples", "transcode_audio"]

BLOCK_SAMPLES = 10 * SAMPLE_RATE_HZ
"""No block that a stream yields is longer."""

_FREE_RATE_CHANGES = 50
"""So often a rate may change, and once more for every second: each change takes milliseconds."""


@dataclass(frozen=True, slots=True, eq=False)
class TranscodedAudio:
    """samples: (n,) float32, mono 16 kHz, in [-1, 1]. warnings: one line each, empty when all went well."""

    samples: Samples
    warnings: tuple[str, ...]

    @property
    def duration_seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ


def open_audio(source: str | Path | bytes | BinaryIO, *, limits: AudioLimits) -> AudioStream:
    """Open a recording for transcoding; use the result as a context manager.

    source: a path, the bytes themselves, or a binary file object (read from its beginning, left open)
    raises: AudioUnreadable, AudioEmpty, AudioFormatUnsupported, AudioTrackMissing, AudioTruncated, AudioUndecodable,
            AudioParametersUnsupported
    """
    file, is_ours = open_source(source)
    try:
        return AudioStream(file, limits, closes_file=is_ours)
    except BaseException:
        if is_ours:
            file.close()
        raise


def transcode_audio(source: str | Path | bytes | BinaryIO, *, limits: AudioLimits) -> TranscodedAudio:
    """Transcode a whole recording; raises what `open_audio` and `AudioStream.blocks` raise."""
    with open_audio(source, limits=limits) as stream:
        blocks = list(stream.blocks())
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return TranscodedAudio(samples, stream.warnings)


class AudioStream:
    """One file being transcoded, all of its recordings after one another; memory stays flat at any length."""

    def __init__(self, file: BinaryIO, limits: AudioLimits, *, closes_file: bool) -> None:
        """file: seekable, binary. Raises as `open_audio` does."""
        self.on_packet: Callable[[], None] = _nothing
        """Called while no block comes for long; what it raises must be no Exception, which would count as damage."""
        self._file = file
        self._limits = limits
        self._closes_file = closes_file
        self._warnings: list[str] = []
        self._sample_count = 0
        self._earlier_seconds = 0.0
        self._over_full_scale = False
        first_bytes(file)
        try:
            self._parts = find_parts(file)
        except OSError as error:
            raise AudioUnreadable(f"the recording could not be read: {reason(error)}") from error
        self._opened = OpenContainer(file, self._parts[0], limits, on_packet=lambda: self.on_packet())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the demuxer, and the file if this stream opened it."""
        self._opened.close()
        if self._closes_file:
            self._file.close()

    @property
    def declared_duration_seconds(self) -> float | None:
        """Length that the file declares, or an estimate from its bit rate; None for neither."""
        return self._opened.declared_seconds if len(self._parts) == 1 else None

    @property
    def states_its_duration(self) -> bool:
        """True when the file itself declares `declared_duration_seconds`, and it is no estimate from the bit rate."""
        return self._opened.states_its_length

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings (cut off, damaged, gaps, bytes left over), one line each; complete after the end."""
        return tuple(self._warnings)

    @property
    def duration_seconds(self) -> float:
        """Length of what was yielded so far."""
        return self._sample_count / SAMPLE_RATE_HZ

    def blocks(self) -> Iterator[Samples]:
        """Yield (n,) float32 blocks, mono 16 kHz, in [-1, 1], 0 < n <= BLOCK_SAMPLES. To be called once.

        Silence stands where a damaged stretch or a pause is missing, and a cut-off end is the end, with a warning.
        raises: AudioTooLong as soon as the limit is passed; AudioParametersUnsupported; AudioUndecodable for NaN;
                after the last block AudioTruncated, AudioUndecodable or AudioTooShort when there were too few samples
        """
        for samples in self._resampled():
            for at in range(0, len(samples), BLOCK_SAMPLES):
                block = np.clip(samples[at : at + BLOCK_SAMPLES], -1.0, 1.0)
                self._sample_count += len(block)
                yield block
        self._conclude()

    def _resampled(self) -> Iterator[Samples]:
        """Batches of about a second through the resampler, a new one whenever the rate changes."""
        resampler: Resampler | None = None
        waiting: list[Samples] = []
        waiting_count = changes = 0
        for rate_hz, mono in self._placed_frames():
            if resampler is not None and rate_hz != resampler.sample_rate_hz:
                yield resampler.push(np.concatenate(waiting)) if waiting else _NO_SAMPLES
                yield resampler.finish()
                resampler, waiting, waiting_count = None, [], 0
                changes += 1
                if changes > _FREE_RATE_CHANGES + self.duration_seconds:
                    raise AudioUndecodable(
                        "the sample rate changes again and again: the file is damaged; convert it to wav"
                    )
            if resampler is None:
                resampler = Resampler(rate_hz)
            waiting.append(mono)
            waiting_count += len(mono)
            if waiting_count >= rate_hz:
                yield resampler.push(np.concatenate(waiting) if len(waiting) > 1 else waiting[0])
                waiting, waiting_count = [], 0
        if resampler is not None:
            yield resampler.push(np.concatenate(waiting)) if waiting else _NO_SAMPLES
            yield resampler.finish()

    def _placed_frames(self) -> Iterator[tuple[int, Samples]]:
        """(rate in Hz, samples) of every frame of every part, silence included, counted against the limits."""
        unread_bytes = 0
        for number, part in enumerate(self._parts):
            if number > 0:
                self._opened.close()
                try:
                    self._opened = OpenContainer(self._file, part, self._limits, on_packet=self.on_packet)
                except (AudioFormatUnsupported, AudioTruncated, AudioUndecodable):
                    unread_bytes += part.size
                    continue
            yield from self._frames_of_part()
            self._warnings += self._opened.warnings(
                self._earlier_seconds, is_last=number + 1 == len(self._parts)
            )
            self._earlier_seconds += self._opened.timeline.position_seconds
        if unread_bytes:
            self._warnings.append(f"{unread_bytes} bytes of the file could not be read as a recording")

    def _frames_of_part(self) -> Iterator[tuple[int, Samples]]:
        """Frames of the first track that can be decoded."""
        choice = 0
        while True:
            for rate_hz, mono in self._opened.placed_frames():
                check_duration(self._earlier_seconds + self._opened.timeline.position_seconds, self._limits)
                peak = peak_of(mono)
                if not peak <= ABSURD_PEAK:
                    if not np.isfinite(peak):
                        raise AudioUndecodable(
                            "the recording contains NaN or infinite samples: export it again as 16-bit wav or flac"
                        )
                    self._over_full_scale = True
                yield rate_hz, mono
            if not (self._opened.is_silent_failure and self._opened.has_next_track):
                return
            choice += 1
            self._opened.close()
            self._opened = OpenContainer(
                self._file, self._opened.part, self._limits, choice=choice, on_packet=self.on_packet
            )

    def _conclude(self) -> None:
        """Warnings, or the error that too few samples deserve."""
        if self._sample_count == 0:
            if self._opened.is_silent_failure:
                raise AudioUndecodable(
                    "no audio could be decoded: the file is damaged; send it again or convert it"
                )
            if self._opened.is_cut_off:
                raise AudioTruncated("the file is cut off before its first sample: send the whole file")
            raise AudioTooShort("the audio track has zero length: send a recording of at least 13 ms")
        check_not_too_short(self._sample_count)
        if self._over_full_scale:
            self._warnings.append(
                "samples far beyond full scale were clipped: the recording may be scaled wrongly"
            )


_NO_SAMPLES: Samples = np.empty(0, dtype=np.float32)


def _nothing() -> None:
    """Go on."""
