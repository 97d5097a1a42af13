"""One opened recording: the demuxer, the track to transcribe, and its decoded frames with their stamps.

By content only, and only by the demuxers listed here: everything else (playlists, images, devices) is refused, and no
second file is ever opened. No exception of the decoding library gets out: every failure is an AudioError.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import BinaryIO

import av
import av.audio.stream
import av.container
import av.stream
import numpy as np

from scribewire.engine.audio.parts import Part, PartFile, is_tag
from scribewire.engine.audio.pcm import Downmix, Frame, Planes, Samples, Timeline, check_channels, check_rate
from scribewire.engine.audio.source import (
    ACCEPTED,
    HEAD_BYTES,
    SPARSE_BYTES_PER_SECOND,
    SparseWatch,
    check_counted_duration,
    is_known_container,
    mp3_frame_count,
    reason,
)
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import (
    AudioError,
    AudioFormatUnsupported,
    AudioTrackMissing,
    AudioTruncated,
    AudioUndecodable,
    AudioUnreadable,
)

_DEMUXERS = (
    "wav,w64,aiff,au,caf,flac,mp3,aac,ac3,eac3,amr,amrnb,amrwb,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,"
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

_WITHOUT_STAMPS = frozenset({"mp3", "aac", "ac3", "eac3", "amr", "amrnb", "amrwb"})
_COUNTS_ITS_STAMPS = frozenset({"wav", "w64", "aiff", "au", "caf", "avi"})
"""What the library says of their times is counted from bytes; only an AVI's track may start late."""

_LENGTH_IS_ESTIMATED = _WITHOUT_STAMPS - {"mp3"} | {"mpegts", "mpeg", "asf", "ogg"}
"""Containers without a stated length: the library estimates it from bit rate or time stamps."""

_CUT_TOLERANCE_SECONDS = 0.3
_CUT_TOLERANCE_FRAMES = 12  # of mp3: as long
_TINY_BYTES = 1024
"""A container this small that cannot be opened is the beginning of one."""

_MAX_REUSE = 2
"""An edit list that reads more than this many times the file's own bytes is a bomb."""

_INDEX_PROBES = 256


class OpenContainer:
    """One part of a file being decoded.

    timeline: where its sound is placed. declared_seconds: its length as declared or estimated, None for neither.
    states_its_length: that is no estimate. has_next_track: another audio track may be tried, as `choice` + 1.
    """

    def __init__(
        self,
        file: BinaryIO,
        part: Part,
        limits: AudioLimits,
        *,
        choice: int = 0,
        on_packet: Callable[[], None],
    ) -> None:
        """choice: 0 for the track to prefer, 1 for the next that there is a decoder for, and so on.

        on_packet: called for each packet; what it raises must be no Exception, which would count as damage.
        raises: AudioFormatUnsupported, AudioTrackMissing, AudioTruncated, AudioUndecodable, AudioUnreadable,
                AudioParametersUnsupported
        """
        self._file, self.part, self._limits, self._choice = file, part, limits, choice
        self._on_packet = on_packet
        self._downmix = Downmix()
        self._stated_frames: int | None = None
        self._packet_count = self._packet_bytes = 0
        self._decoded_seconds = 0.0
        self._lost_seconds = 0.0
        self._skipped_packets = 0
        self._damaged_at: float | None = None
        self._last_packet_damaged = False
        self._ended_early = False
        self._container = _open(file, part)
        try:
            self._formats = set(self._container.format.name.split(","))
            self._track, self.has_next_track, self._is_first_track = self._choose_track()
            self._refuse_reuse()
            self._measure()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the demuxer."""
        self._container.close()

    @property
    def is_silent_failure(self) -> bool:
        """True when packets came and nothing could be decoded."""
        return self._decoded_seconds == 0 and self._skipped_packets > self._last_packet_damaged

    def placed_frames(self) -> Iterator[tuple[int, Samples]]:
        """(rate in Hz, mono samples) in order, with the silence that belongs between them."""
        return self.timeline.place(self._frames())

    def warnings(self, offset_seconds: float, *, is_last: bool) -> list[str]:
        """One line each, after the last frame. offset_seconds: what stands in the file before this part."""
        lines = [] if self._is_first_track else ["the first audio track cannot be decoded: another was taken"]
        is_cut_off = is_last and self.is_cut_off
        seconds = offset_seconds + self.timeline.position_seconds
        if is_cut_off:
            declared = (self.declared_seconds or 0.0) + offset_seconds
            known = f" of {declared:.1f} s were decoded"
            if declared <= seconds + _CUT_TOLERANCE_SECONDS:
                known = " s were decoded, its whole length is not known"
            lines.append(f"the recording is cut off: only its first {seconds:.1f}{known}")
        elif is_last and self.part.is_cut is None:
            lines.append("the recording has no end mark: whether more belongs to it is not known")
        damaged = self._skipped_packets - (is_cut_off and self._last_packet_damaged)
        if damaged > 0:
            at = offset_seconds + (self._damaged_at or 0.0)
            lines.append(f"the recording is damaged at {at:.1f} s: {damaged} packets could not be decoded")
        lines += self.timeline.warnings(offset_seconds)
        if self.part.states_too_little:
            lines.append("the header states less sound than the file holds: everything was decoded")
        if self.part.left_bytes:
            lines.append(f"{self.part.left_bytes} bytes after the recording are no sound that can be read")
        return lines

    @property
    def is_cut_off(self) -> bool:
        """True when the end is missing, by the container's structure or its declared length."""
        if self._ended_early or self.part.is_cut:
            return True
        if self._formats & {"wav", "w64", "aiff", "caf"}:
            return False  # their structure was judged; sizes may have been left at their maximum
        if "mp3" in self._formats:
            return self._packet_count < (self._stated_frames or 0) - _CUT_TOLERANCE_FRAMES
        if self._last_packet_damaged and not self._formats & {"mov", "matroska"}:
            return True
        if (
            not self.states_its_length
            or self._formats & _LENGTH_IS_ESTIMATED
            or self.declared_seconds is None
        ):
            return False
        if self._track.duration is None and self._container.streams.video:
            return False  # the container's length may be that of the picture
        return self.timeline.position_seconds < self.declared_seconds - _CUT_TOLERANCE_SECONDS

    def _choose_track(self) -> tuple[av.audio.stream.AudioStream, bool, bool]:
        """The track to transcribe, whether another follows, and whether it is the preferred one."""
        tracks = list(self._container.streams.audio)
        if not tracks:
            if self._container.streams.video:
                raise AudioTrackMissing("the video has no audio track: send a file with sound")
            if self.part.is_cut:
                raise AudioTruncated("the file is cut off before its first sample: send the whole file")
            raise AudioTrackMissing("the file has no audio track: send a file with sound")
        best = self._container.streams.best("audio")
        preferred = best if isinstance(best, av.audio.stream.AudioStream) else tracks[0]
        known = [one for one in sorted(tracks, key=lambda one: one is not preferred) if _has_decoder(one)]
        if self._choice >= len(known):
            raise AudioFormatUnsupported(f"the audio track's codec is not known: send {ACCEPTED}")
        track = known[self._choice]
        for stream in self._container.streams:
            if stream is not track:
                stream.discard = av.stream.Discard.all
        if track.codec_context.sample_rate:
            check_rate(track.codec_context.sample_rate, self._limits)
        if track.codec_context.channels:
            check_channels(track.codec_context.channels, self._limits)
        is_first = track is preferred and (tracks[0] is preferred or _has_decoder(tracks[0]))
        return track, self._choice + 1 < len(known), is_first

    def _refuse_reuse(self) -> None:
        """Raise AudioFormatUnsupported for an MP4 whose edit list plays its few seconds for hours."""
        index = self._track.index_entries
        if "mov" not in self._formats or len(index) < _INDEX_PROBES:
            return
        probes = [index[at * len(index) // _INDEX_PROBES].size for at in range(_INDEX_PROBES)]
        if sum(probes) / _INDEX_PROBES * len(index) > _MAX_REUSE * self.part.size:
            raise AudioFormatUnsupported(
                "the file's edit list plays the same sound again and again: export the recording again"
            )

    def _measure(self) -> None:
        """Set the declared length, and the timeline from the container's start to its declared end."""
        container, track = self._container, self._track
        whole = None if container.duration is None else float(container.duration) / float(av.time_base)
        start = self._start_seconds()
        is_estimate = bool(self._formats & _LENGTH_IS_ESTIMATED) or self.part.is_fragmented
        if "matroska" in self._formats:  # which declares no track's length
            is_estimate = whole is None or track.duration is not None
            declared = None if whole is None else whole - max(0.0, start or 0.0)
        elif track.duration is not None and track.time_base is not None:
            declared = float(track.duration * track.time_base)
            if track.start_time is not None and start is not None:
                declared += float(track.start_time * track.time_base) - start
        else:
            declared = whole
        self.declared_seconds = declared if declared is None or declared > 0 else whole
        self.states_its_length = not is_estimate
        if "ogg" in self._formats:  # its last page does, unless it is damaged
            self.states_its_length = self.part.size >= SPARSE_BYTES_PER_SECOND * (declared or 0.0)
        if "mp3" in self._formats:
            self._stated_frames = mp3_frame_count(PartFile(self._file, self.part).read(400))
            self.states_its_length = self._stated_frames is not None
        is_counted = bool(self._formats & _WITHOUT_STAMPS)
        self.timeline = Timeline(
            start_seconds=0.0 if is_counted else start,
            end_seconds=None if is_estimate or is_counted else whole,
        )

    def _start_seconds(self) -> float | None:
        """The stamp of whichever track begins first; pictures on a cover have none."""
        streams = [*self._container.streams.video, *self._container.streams.audio]
        if "mpegts" in self._formats:  # another programme has another clock
            streams = [one for one in (self._container.streams.best("video", related=self._track),) if one]
        starts = [
            float(one.start_time * one.time_base)
            for one in (self._track, *streams)
            if one.start_time is not None
            and one.time_base is not None
            and not one.disposition & av.stream.Disposition.attached_pic
        ]
        return min(starts, default=None)

    def _frames(self) -> Iterator[Frame]:
        """Every decoded frame, checked and mixed, with its stamp or, where there is none, the time counted so far."""
        watch = SparseWatch()
        counts = bool(self._formats & (_WITHOUT_STAMPS | _COUNTS_ITS_STAMPS))
        first_stamp: float | None = None
        for frame, packet_bytes in self._decoded():
            check_rate(frame.sample_rate, self._limits)
            check_channels(frame.layout.nb_channels, self._limits)
            watch.add_packet(packet_bytes)
            if first_stamp is None:
                first_stamp = (frame.time or 0.0) if "avi" in self._formats else 0.0
            stamp = first_stamp + self._decoded_seconds + self._lost_seconds if counts else frame.time
            self._decoded_seconds += frame.samples / frame.sample_rate
            if watch.finds_sparse(self._decoded_seconds):
                self._count_to_the_end()
            yield Frame(frame.sample_rate, self._downmix.mono(_planes(frame), frame.sample_rate), stamp)

    def _decoded(self) -> Iterator[tuple[av.AudioFrame, int]]:
        """Frames, and the bytes decoded for each; damaged packets are counted, a read error ends the recording."""
        packets = self._container.demux(self._track)
        while True:
            try:
                packet = next(packets, None)
            except Exception as error:  # PyAV lets errors of many types out
                raise_if_no_damage(error)
                self._ended_early = True
                return
            if packet is None:
                return
            self._on_packet()
            try:
                frames = packet.decode()
            except Exception as error:  # as above
                if isinstance(error, EOFError):
                    return
                raise_if_no_damage(error)
                self._skip(packet)
                continue
            if packet.size:  # the last, empty one only flushes the decoder
                self._last_packet_damaged = packet.is_corrupt
                self._packet_bytes += packet.size
                self._packet_count += 1
            size = packet.size
            for frame in frames:
                if frame.samples:
                    yield frame, size
                    size = 0

    def _skip(self, packet: av.Packet[av.audio.stream.AudioStream]) -> None:
        """Count a packet that could not be decoded, and the time that so many bytes took elsewhere."""
        if is_tag(bytes(packet)):
            return
        if self._damaged_at is None:
            self._damaged_at = self.timeline.position_seconds
        self._skipped_packets += 1
        self._last_packet_damaged = True
        if self._packet_bytes:
            self._lost_seconds += packet.size / self._packet_bytes * self._decoded_seconds

    def _count_to_the_end(self) -> None:
        """Raise AudioTooLong now for a file that will pass the limit."""
        try:
            with _open(self._file, self.part) as container:
                track = container.streams.audio[self._container.streams.audio.index(self._track)]
                check_counted_duration(container, track, self._limits, on_packet=self._on_packet)
        except Exception as error:  # as above; damage is judged by the decoding itself
            raise_if_no_damage(error)


def _has_decoder(track: av.audio.stream.AudioStream) -> bool:
    context: object = track.codec_context
    return context is not None


def _refuse_further_files(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    raise AudioFormatUnsupported(
        "the file refers to other files, which are never opened: send the recording itself"
    )


def _open(file: BinaryIO, part: Part) -> av.container.InputContainer:
    head = PartFile(file, part).read(HEAD_BYTES)
    try:
        return av.open(
            PartFile(file, part),
            "r",
            options=_OPTIONS | (_PCM_OPTIONS if head.startswith(_PCM_MAGIC) else {}),
            metadata_errors="replace",
            io_open=_refuse_further_files,
        )
    except Exception as error:  # PyAV lets UnicodeDecodeError, IndexError, ValueError and more out
        raise_if_no_damage(error)
        if not is_known_container(head):
            raise AudioFormatUnsupported(
                f"the file is not a recording that can be read: send {ACCEPTED}"
            ) from error
        is_end_of_file = isinstance(error, EOFError) or getattr(error, "errno", None) == errno.EIO
        if is_end_of_file or len(head) < _TINY_BYTES or part.is_cut:
            raise AudioTruncated(
                "the file is cut off before its first sample: send the whole file"
            ) from error
        raise AudioUndecodable(
            "the file is damaged, or of a kind that is not accepted: send it again or convert it to wav"
        ) from error


def raise_if_no_damage(error: Exception) -> None:
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


def _planes(frame: av.AudioFrame) -> Planes:
    """The channels of a decoded frame, (n,) each; raises AudioFormatUnsupported for 64-bit integers."""
    kind, channels, count = frame.format.name, frame.layout.nb_channels, frame.samples
    dtype = _FRAME_TYPES.get(kind.removesuffix("p"))
    if dtype is None:
        raise AudioFormatUnsupported(
            f"samples of type {kind} are not accepted: convert the recording to 16-bit wav"
        )
    # Not frame.to_ndarray(): of a planar frame of eight channels, PyAV 18.1 lists a ninth plane that points nowhere,
    # and reading it ends the process. The first `channels` planes are sound.
    if frame.format.is_planar:
        return [np.frombuffer(bytes(plane), dtype, count) for plane in frame.planes[:channels]]
    return np.frombuffer(bytes(frame.planes[0]), dtype, count * channels).reshape(count, channels).T
