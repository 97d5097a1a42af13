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

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import av
import av.audio.stream
import av.container
import av.stream
import numpy as np

from scribewire.engine.audio import sniff
from scribewire.engine.audio.pcm import (
    ABSURD_PEAK,
    Samples,
    check_channels,
    check_duration,
    check_not_too_short,
    check_rate,
    mean_over_channels,
    peak_of,
    prepare_samples,
)
from scribewire.engine.audio.resample import Resampler
from scribewire.engine.audio.source import ACCEPTED, first_bytes, open_source, reason
from scribewire.engine.audio.sparse import SparseWatch, check_counted_duration
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import (
    AudioError,
    AudioFormatUnsupported,
    AudioTooShort,
    AudioTrackMissing,
    AudioTruncated,
    AudioUndecodable,
    AudioUnreadable,
)

__all__ = ["AudioStream", "TranscodedAudio", "open_audio", "prepare_samples", "transcode_audio"]

BLOCK_SAMPLES = 10 * SAMPLE_RATE_HZ
"""No block that a stream yields is longer."""

_DEMUXERS = (
    "wav,w64,aiff,au,caf,flac,mp3,aac,amr,amrnb,amrwb,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,"
    "avi,mpegts,mpeg,asf"
)
"""hls, concat, dash, sdp, image2 and every other demuxer that opens further files or devices is missing on purpose."""

_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    # Nothing is opened by name at all (a file object is read); the next two only repeat it to the library.
    "protocol_whitelist": "file",
    "enable_drefs": "0",
}

_PCM_MAGIC = (b"RIFF", b"RF64", b"FORM", b"riff", b"caff", b".snd")
_PCM_OPTIONS = {
    # Packets of 32 KiB instead of 40 ms, and no search for DTS inside the samples: four times quicker.
    "max_size": str(1 << 15),
    "max_probe_packets": "1",
}

_LENGTH_IS_ESTIMATED = frozenset({"aac", "amr", "amrnb", "amrwb", "mpegts", "mpeg", "asf", "ogg"})
"""Containers without a stated length: the library estimates it from bit rate or time stamps."""

_CUT_TOLERANCE_SECONDS = 0.3

_TINY_BYTES = 1024
"""A container this small that cannot be opened is the beginning of one."""


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
    """One recording being transcoded. Owns the demuxer; memory stays flat at any length."""

    def __init__(self, file: BinaryIO, limits: AudioLimits, *, closes_file: bool) -> None:
        """file: seekable, binary. Raises as `open_audio` does."""
        self._file = file
        self._limits = limits
        self._closes_file = closes_file
        self._warnings: list[str] = []
        self._sample_count = 0
        self._transcoded_seconds = 0.0
        self._sparse_watch = SparseWatch()
        self._skipped_packets = 0
        self._over_full_scale = False
        self._last_packet_damaged = False
        self._ended_early = False
        head = first_bytes(file)
        self._container = _open_container(file, head)
        try:
            self._track = _audio_track(self._container, file, limits)
            self.declared_duration_seconds = _declared_seconds(self._container, self._track)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the demuxer, and the file if this stream opened it."""
        self._container.close()
        if self._closes_file:
            self._file.close()

    @property
    def states_its_duration(self) -> bool:
        """True when the file itself declares `declared_duration_seconds`, and it is no estimate from the bit rate."""
        formats = set(self._container.format.name.split(","))
        if formats & _LENGTH_IS_ESTIMATED - {"ogg"}:
            return False
        if "mp3" not in formats:
            return True
        # The demuxer reads on from where it was.
        position = self._file.tell()
        try:
            return sniff.mp3_states_its_length(self._file)
        finally:
            self._file.seek(position)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings (cut off, damaged, over full scale), one line each; complete after the end."""
        return tuple(self._warnings)

    @property
    def duration_seconds(self) -> float:
        """Length of what was yielded so far."""
        return self._sample_count / SAMPLE_RATE_HZ

    def blocks(self) -> Iterator[Samples]:
        """Yield (n,) float32 blocks, mono 16 kHz, in [-1, 1], 0 < n <= BLOCK_SAMPLES. To be called once.

        A damaged stretch is left out and a cut-off end is the end, both with a warning.
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
        waiting_count = 0
        for rate_hz, mono in self._mono_frames():
            if resampler is not None and rate_hz != resampler.sample_rate_hz:
                yield resampler.push(np.concatenate(waiting)) if waiting else _NO_SAMPLES
                yield resampler.finish()
                resampler, waiting, waiting_count = None, [], 0
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

    def _mono_frames(self) -> Iterator[tuple[int, Samples]]:
        """(rate in Hz, samples) of every decoded frame, counted against the limits."""
        for frame in self._frames():
            if frame.samples == 0:
                continue
            check_rate(frame.sample_rate, self._limits)
            check_channels(frame.layout.nb_channels, self._limits)
            self._transcoded_seconds += frame.samples / frame.sample_rate
            check_duration(self._transcoded_seconds, self._limits)
            if self._sparse_watch.finds_sparse(self._transcoded_seconds):
                self._count_to_the_end()
            mono = _mono_samples(frame)
            peak = peak_of(mono)
            if not peak <= ABSURD_PEAK:
                if not np.isfinite(peak):
                    raise AudioUndecodable(
                        "the recording contains NaN or infinite samples: export it again as 16-bit wav or flac"
                    )
                self._over_full_scale = True
            yield frame.sample_rate, mono

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decoded frames; damaged packets are counted and skipped, a read error ends the recording."""
        packets = self._container.demux(self._track)
        while True:
            try:
                packet = next(packets, None)
            except Exception as error:  # PyAV lets errors of many types out
                _raise_if_no_damage(error)
                self._ended_early = True
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except Exception as error:  # as above
                if isinstance(error, EOFError):
                    return
                _raise_if_no_damage(error)
                self._skipped_packets += 1
                self._last_packet_damaged = True
                continue
            if packet.size:  # the last, empty one only flushes the decoder
                self._last_packet_damaged = packet.is_corrupt
                self._sparse_watch.add_packet(packet.size)
            yield from frames

    def _count_to_the_end(self) -> None:
        """Raise AudioTooLong now for a file that will pass the limit; the current position is kept."""
        position = self._file.tell()
        self._file.seek(0)
        try:
            with _open_container(self._file, first_bytes(self._file)) as container:
                check_counted_duration(
                    container, _audio_track(container, self._file, self._limits), self._limits
                )
        except Exception as error:  # as above; damage is judged by the decoding itself
            _raise_if_no_damage(error)
        finally:
            self._file.seek(position)

    def _conclude(self) -> None:
        """Warnings, or the error that too few samples deserve."""
        is_cut_off = self._is_cut_off()
        if self._sample_count == 0:
            if self._skipped_packets > self._last_packet_damaged:
                raise AudioUndecodable(
                    "no audio could be decoded: the file is damaged; send it again or convert it"
                )
            if is_cut_off:
                raise AudioTruncated("the file is cut off before its first sample: send the whole file")
            raise AudioTooShort("the audio track has zero length: send a recording of at least 13 ms")
        check_not_too_short(self._sample_count)
        if is_cut_off:
            self._warnings.append(self._cut_off_warning())
        damaged = self._skipped_packets - (1 if is_cut_off and self._last_packet_damaged else 0)
        if damaged > 0:
            self._warnings.append(f"the recording is damaged: {damaged} packets could not be decoded")
        if self._over_full_scale:
            self._warnings.append(
                "samples far beyond full scale were clipped: the recording may be scaled wrongly"
            )

    def _is_cut_off(self) -> bool:
        if self._ended_early or sniff.looks_cut_off(self._file):
            return True
        formats = set(self._container.format.name.split(","))
        if (
            "wav" in formats
        ):  # judged above; a recorder that writes to a pipe leaves the sizes at their maximum
            return False
        if self._last_packet_damaged:
            return True
        if formats & _LENGTH_IS_ESTIMATED:
            return False
        if "mp3" in formats and not sniff.mp3_states_its_length(self._file):
            return False
        declared = self.declared_duration_seconds
        if declared is None or (self._track.duration is None and self._container.streams.video):
            return False  # the container's length may be that of the picture
        return self._transcoded_seconds < declared - _CUT_TOLERANCE_SECONDS

    def _cut_off_warning(self) -> str:
        declared = self.declared_duration_seconds
        is_known = declared is not None and declared > self._transcoded_seconds + _CUT_TOLERANCE_SECONDS
        of_declared = f" of {declared:.1f}" if is_known else ""
        return f"the recording is cut off: only its first {self._transcoded_seconds:.1f}{of_declared} s were decoded"


_NO_SAMPLES: Samples = np.empty(0, dtype=np.float32)


class _Reader:
    """A file that can be read and sought only: without a name, the library judges by content."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


def _refuse_further_files(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    raise AudioFormatUnsupported(
        "the file refers to other files, which are never opened: send the recording itself"
    )


def _open_container(file: BinaryIO, head: bytes) -> av.container.InputContainer:
    try:
        return av.open(
            _Reader(file),
            "r",
            options=_OPTIONS | (_PCM_OPTIONS if head.startswith(_PCM_MAGIC) else {}),
            metadata_errors="replace",
            io_open=_refuse_further_files,
        )
    except Exception as error:  # PyAV lets UnicodeDecodeError, IndexError, ValueError and more out
        _raise_if_no_damage(error)
        if not sniff.is_known_container(head):
            raise AudioFormatUnsupported(
                f"the file is not a recording that can be read: send {ACCEPTED}"
            ) from error
        is_end_of_file = isinstance(error, EOFError) or getattr(error, "errno", None) == errno.EIO
        if is_end_of_file or len(head) < _TINY_BYTES or sniff.looks_cut_off(file):
            raise AudioTruncated(
                "the file is cut off before its first sample: send the whole file"
            ) from error
        raise AudioUndecodable(
            "the file is damaged, or of a kind that is not accepted: send it again or convert it to wav"
        ) from error


def _audio_track(
    container: av.container.InputContainer, file: BinaryIO, limits: AudioLimits
) -> av.audio.stream.AudioStream:
    """The track to transcribe (the default one of several); every other is switched off."""
    tracks = container.streams.audio
    if not tracks:
        if not container.streams.video and sniff.looks_cut_off(file):
            raise AudioTruncated("the file is cut off before its first sample: send the whole file")
        if container.streams.video:
            raise AudioTrackMissing("the video has no audio track: send a file with sound")
        raise AudioTrackMissing("the file has no audio track: send a file with sound")
    best = container.streams.best("audio")
    track = best if isinstance(best, av.audio.stream.AudioStream) else tracks[0]
    if track.codec_context is None:
        raise AudioFormatUnsupported(f"the audio track's codec is not known: send {ACCEPTED}")
    for stream in container.streams:
        if stream is not track:
            stream.discard = av.stream.Discard.all
    if track.codec_context.sample_rate:
        check_rate(track.codec_context.sample_rate, limits)
    if track.codec_context.channels:
        check_channels(track.codec_context.channels, limits)
    return track


def _declared_seconds(
    container: av.container.InputContainer, track: av.audio.stream.AudioStream
) -> float | None:
    if track.duration is not None and track.time_base is not None:
        return float(track.duration * track.time_base)
    if container.duration is not None:
        return float(container.duration) / float(av.time_base)
    return None


def _raise_if_no_damage(error: Exception) -> None:
    """Raise what is no damage of the recording: our own refusals, and a disk that cannot be read."""
    if isinstance(error, AudioError):
        raise error
    if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
        raise AudioUnreadable(f"the recording could not be read: {reason(error)}") from error


_FRAME_TYPES: dict[str, type[np.generic]] = {
    "u8": np.uint8,
    "s16": np.int16,
    "s32": np.int32,
    "flt": np.float32,
    "dbl": np.float64,
}


def _mono_samples(frame: av.AudioFrame) -> Samples:
    """(n,) float32 of a decoded frame, still at its own rate; raises AudioFormatUnsupported for 64-bit integers."""
    kind, channels, count = frame.format.name, frame.layout.nb_channels, frame.samples
    dtype = _FRAME_TYPES.get(kind.removesuffix("p"))
    if dtype is None:
        raise AudioFormatUnsupported(
            f"samples of type {kind} are not accepted: convert the recording to 16-bit wav"
        )
    # Not frame.to_ndarray(): of a planar frame of eight channels, PyAV 18.1 lists a ninth plane that points nowhere,
    # and reading it ends the process. The first `channels` planes are sound.
    if frame.format.is_planar:
        planes = [np.frombuffer(bytes(plane), dtype, count) for plane in frame.planes[:channels]]
        return mean_over_channels(planes)
    packed = np.frombuffer(bytes(frame.planes[0]), dtype, count * channels)
    return mean_over_channels(packed.reshape(count, channels).T)
