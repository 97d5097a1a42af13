"""The transcode child: opens untrusted files, one after another, and writes their samples to the given files.

Started by `scribewire.engine.processes.launch`. It lives within hard limits (processor time, memory, file size,
descriptors), loads no MLX, and opens no file but the two that each message names and no connection at all. Every
recording is answered by one end, or by the death of this process, which the front takes as the answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import logging
import math
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

import av.logging

from scribewire.engine.audio.pcm import Samples, check_duration
from scribewire.engine.audio.transcode import AudioStream, open_audio
from scribewire.engine.processes.child import EXIT_OVER_MEMORY, EXIT_PARENT_GONE
from scribewire.engine.processes.memory import peak_resident_bytes, resident_bytes
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import AudioUndecodable, AudioUnreadable, EngineError, RequestCancelled
from scribewire.engine.protocol.transcoding import (
    DISK_FULL_CODE,
    MAX_TEXT_CHARACTERS,
    MAX_WARNINGS,
    AudioBegun,
    FromTranscoder,
    StopTranscoding,
    ToTranscoder,
    Transcode,
    Transcoded,
    TranscodeFailed,
    TranscodeLimits,
    TranscoderReady,
    TranscodeTaken,
    parse_to_transcoder,
    to_line,
)

SAMPLE_BYTES = 4

_IS_LINUX: bool = sys.platform == "linux"
_LIBC = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE = 1
_RESERVED_BYTES = 16 << 20
_OPENING_CPU_SECONDS = 1
"""To open a recording; one more for every 256 MB. Headers can keep the library busy for minutes."""

_MAX_OPEN_FILES = 32
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEMORY_WATCH_SECONDS = 0.05


def main(limits: TranscodeLimits, pipe: Connection) -> int:
    """Transcode until the front closes the pipe or this process has served its time; returns the exit code."""
    av.logging.set_level(None)
    # What the decoding library may still say goes to the front's log, with the death it explains.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(message)s")
    bounds = _Bounds(limits)
    bounds.apply()
    channel = _Channel(pipe)
    channel.send(TranscoderReady(os.getpid()))
    return _Transcoder(limits, bounds, channel).run()


class _Stopped(BaseException):
    """The front has stopped this recording; no Exception, because those of a recording are taken for damage."""


class _Channel:
    """Lines over the pipe; only the main thread uses it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe  # kept, or its descriptor would be closed
        self._descriptor = pipe.fileno()
        self._received = b""

    def send(self, message: FromTranscoder) -> None:
        """Send, or end the process when the front is gone."""
        line = to_line(message)
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            os._exit(EXIT_PARENT_GONE)

    def receive(self) -> ToTranscoder | None:
        """The next message, waiting for it; None when the front has closed the pipe."""
        while b"\n" not in self._received:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except OSError:
                return None
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return parse_to_transcoder(line)

    def raise_if_stopped(self, task_id: int) -> None:
        """Raise _Stopped when the front has stopped the recording, or is gone."""
        while b"\n" in self._received or select.select([self._descriptor], [], [], 0)[0]:
            message = self.receive()
            if message is None or (isinstance(message, StopTranscoding) and message.task_id == task_id):
                raise _Stopped


class _Transcoder:
    """One recording after another."""

    def __init__(self, limits: TranscodeLimits, bounds: _Bounds, channel: _Channel) -> None:
        self._limits = limits
        self._bounds = bounds
        self._channel = channel

    def run(self) -> int:
        served = 0
        while (message := self._channel.receive()) is not None:
            if not isinstance(message, Transcode):
                continue  # a stop that came after the end
            self._channel.send(TranscodeTaken(message.task_id))
            with self._bounds.for_one_recording():
                end, is_sound = self._answer(message)
            served += 1
            is_last = (
                not is_sound or served >= self._limits.recordings or self._bounds.has_grown_beyond_measure()
            )
            self._channel.send(dataclasses.replace(end, is_last=is_last))
            if is_last:
                return 0
        return EXIT_PARENT_GONE

    def _answer(self, task: Transcode) -> tuple[Transcoded | TranscodeFailed, bool]:
        """The end of one recording, and True when this process is fit for another."""
        try:
            return self._transcode(task), True
        except _Stopped:
            return _failure(task, RequestCancelled("the decoding was stopped")), True
        except EngineError as error:
            return _failure(task, error), True
        except OSError as error:
            if error.errno in _DISK_FULL:
                return TranscodeFailed(task.task_id, DISK_FULL_CODE, "no room on the disk", None), True
            shown = error.strerror or type(error).__name__
            return _failure(task, AudioUnreadable(f"the recording cannot be read: {shown}")), True
        except MemoryError:
            return _failure(
                task,
                AudioUndecodable(
                    "the recording could not be decoded within the limit of memory: convert it to wav or flac"
                ),
            ), False
        except Exception as error:
            refusal = AudioUndecodable("the recording could not be decoded: convert it to wav or flac")
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__}: {error} in {where.name}, line {where.lineno}"
            return dataclasses.replace(_failure(task, refusal), detail=_cut(detail)), False

    def _transcode(self, task: Transcode) -> Transcoded:
        started = time.monotonic()
        # The file is opened here, so that no message can name its path.
        with (
            Path(task.input_path).open("rb") as recording,
            _SamplesFile(task.output_path) as samples,
            self._opened(recording, task.limits) as stream,
        ):
            expected_seconds = _claimed_seconds(stream)
            # A declared length over the limit is taken at its word; an estimated one is not.
            if expected_seconds is not None and stream.states_its_duration:
                check_duration(expected_seconds, task.limits)
                samples.check_room_for(expected_seconds)
            stream.on_packet = lambda: self._channel.raise_if_stopped(task.task_id)
            has_begun = False
            for block in stream.blocks():
                # Sent before more is written, or a recording of just so many samples would begin when it ends.
                if not has_begun and samples.count >= task.begins_after_samples:
                    has_begun = True
                    self._channel.send(AudioBegun(task.task_id, time.monotonic() - started, expected_seconds))
                samples.append(block)
                self._channel.raise_if_stopped(task.task_id)
            warnings = tuple(_cut(warning) for warning in stream.warnings[:MAX_WARNINGS])
            return Transcoded(task.task_id, time.monotonic() - started, samples.count, warnings)

    def _opened(self, recording: BinaryIO, limits: AudioLimits) -> AudioStream:
        size = os.fstat(recording.fileno()).st_size
        self._bounds.allow(_OPENING_CPU_SECONDS + (size >> 28))
        stream = open_audio(recording, limits=limits)
        self._bounds.allow(self._limits.cpu_seconds)
        return stream


def _failure(task: Transcode, error: EngineError) -> TranscodeFailed:
    return TranscodeFailed(task.task_id, error.code, _cut(error.message), error.parameter)


def _cut(text: str) -> str:
    return " ".join(text.split())[:MAX_TEXT_CHARACTERS]


def _claimed_seconds(stream: AudioStream) -> float | None:
    claimed = stream.declared_duration_seconds
    return float(claimed) if claimed is not None and math.isfinite(claimed) and claimed > 0 else None


class _SamplesFile:
    """The samples on their way to the disk; the file is there already, so that a removed one stays removed.

    Samples that are in it come from an earlier turn of the same recording, and are not written again.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        self._held_count = os.fstat(self._descriptor).st_size // SAMPLE_BYTES
        self.count = 0
        self._reserved = 0

    def __enter__(self) -> _SamplesFile:
        return self

    def __exit__(self, *_: object) -> None:
        # Gives back what was reserved and not used, and nothing that an earlier turn has written.
        os.ftruncate(self._descriptor, max(self.count, self._held_count) * SAMPLE_BYTES)
        os.close(self._descriptor)

    def check_room_for(self, seconds: float) -> None:
        """Raise OSError(ENOSPC) when so much audio would not fit on the disk."""
        disk = os.fstatvfs(self._descriptor)
        if seconds * SAMPLE_RATE_HZ * SAMPLE_BYTES > disk.f_bavail * disk.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def append(self, block: Samples) -> None:
        """Write (n,) samples, all of them; silence becomes a hole, which takes no room.

        What a child before this one has written is passed over.
        """
        new = block[max(0, self._held_count - self.count) :]
        self.count += len(block)
        if not len(new):
            return
        at = (self.count - len(new)) * SAMPLE_BYTES
        if not new.any():
            os.ftruncate(self._descriptor, at)  # gives back what was reserved
            os.ftruncate(self._descriptor, self.count * SAMPLE_BYTES)
            self._reserved = 0
            return
        self._reserve(at + len(new) * SAMPLE_BYTES)
        data = memoryview(new.astype("<f4", copy=False).tobytes())
        while data:
            written = os.pwrite(self._descriptor, data, at)
            data, at = data[written:], at + written

    def _reserve(self, at: int) -> None:
        """Take room for what comes next, so that a full disk is an error before anything is written.

        raises: OSError(ENOSPC, EDQUOT). Only Linux can without moving the end of the file, which readers go by.
        """
        if at < self._reserved or not _IS_LINUX:
            return
        self._reserved = at + _RESERVED_BYTES
        if _LIBC.fallocate(self._descriptor, _KEEP_SIZE, ctypes.c_int64(at), ctypes.c_int64(_RESERVED_BYTES)):
            code = ctypes.get_errno()
            if code in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(code, os.strerror(code))


class _Bounds:
    """Limits of this process, enforced by the system; the front's own watch is a second line."""

    def __init__(self, limits: TranscodeLimits) -> None:
        self._limits = limits
        self._resident_at_start = _resident_bytes()
        self._is_working = threading.Event()

    def apply(self) -> None:
        """Set every limit but that on processor time, which is each recording's own."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _lower(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
        _lower(resource.RLIMIT_FSIZE, self._limits.file_bytes)
        # With this signal ignored, a write beyond the limit is an error like that of a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if _IS_LINUX:
            # Addresses that libraries take and never touch are not memory that was used.
            spare_bytes = max(0, self._limits.memory_bytes - self._resident_at_start)
            _lower(resource.RLIMIT_AS, _address_space_bytes() + spare_bytes)
        else:
            # On macOS the limit on the address space does not bind.
            threading.Thread(target=self._watch_memory, name="memory", daemon=True).start()

    @contextlib.contextmanager
    def for_one_recording(self) -> Iterator[None]:
        """End this process by SIGXCPU when the recording takes more processor time than one may."""
        self.allow(self._limits.cpu_seconds)
        self._is_working.set()
        try:
            yield
        finally:
            self._is_working.clear()

    def allow(self, cpu_seconds: int) -> None:
        """Give the recording so much processor time from now on."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = min(cpu_seconds, self._limits.cpu_seconds)
        _lower_soft(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)

    def has_grown_beyond_measure(self) -> bool:
        """True when so much memory has stayed allocated that a fresh process is better."""
        return _resident_bytes() - self._resident_at_start > self._limits.growth_bytes

    def _watch_memory(self) -> None:
        while peak_resident_bytes() <= self._limits.memory_bytes:
            self._is_working.wait()
            time.sleep(_MEMORY_WATCH_SECONDS)
        os._exit(EXIT_OVER_MEMORY)


def _lower(kind: int, value: int) -> None:
    """Set a limit for good, or leave it where it is lower already."""
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or value < hard:
        resource.setrlimit(kind, (value, value))


def _lower_soft(kind: int, value: int) -> None:
    """Set a limit that can be moved again, within the hard one."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _resident_bytes() -> int:
    """Memory that this process holds now, or its peak where the system does not report that."""
    now = resident_bytes()
    return peak_resident_bytes() if now is None else now
