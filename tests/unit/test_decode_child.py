"""The decode child on its own: one end for every recording, within limits that the system holds."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from scribewire.engine.audio import transcode_child as decode_child
from scribewire.engine.audio.transcode import transcode_audio
from scribewire.engine.processes.child import EXIT_OVER_MEMORY, EXIT_PARENT_GONE
from scribewire.engine.processes.launch import TRANSCODE_CHILD_MODULE, start_transcode_child
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.transcoding import (
    DISK_FULL_CODE,
    MAX_LINE_BYTES,
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
    parse_from_transcoder,
    to_line,
)
from tests.fakes.media import LIMITS, LOSSLESS, encoded, riff, tones
from tests.fakes.media_times import matroska_of_tags, table_of_millions
from tests.fakes.waiting import PATIENCE_SECONDS, is_gone, wait_until

PROJECT = Path(__file__).resolve().parents[2]
MB = 1 << 20

child_process = pytest.mark.process


class Child:
    """A started child, spoken to by blocking calls that give up after a while."""

    def __init__(self, folder: Path, *, module: str = TRANSCODE_CHILD_MODULE, **limits: Any) -> None:
        self.folder = folder
        self.handle = start_transcode_child(TranscodeLimits(**limits), module=module)
        self._received = b""
        self._task_id = 0
        ready = self.hear()
        assert isinstance(ready, TranscoderReady)
        assert ready.process_id == self.handle.process_id
        self.psutil = psutil.Process(ready.process_id)

    def hear(self) -> FromTranscoder:
        while b"\n" not in self._received:
            descriptor = self.handle.pipe.fileno()
            assert select.select([descriptor], [], [], PATIENCE_SECONDS)[0], "the child says nothing"
            data = os.read(descriptor, MAX_LINE_BYTES)
            if not data:
                raise EOFError
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return parse_from_transcoder(line)

    def say(self, message: ToTranscoder) -> None:
        os.write(self.handle.pipe.fileno(), to_line(message))

    def begin(
        self, recording: bytes | Path, *, limits: AudioLimits = LIMITS, begins_after_seconds: float = 1e6
    ) -> int:
        """Hand over a recording; returns the task's id."""
        self._task_id += 1
        path = recording if isinstance(recording, Path) else self.folder / f"recording-{self._task_id}"
        if isinstance(recording, bytes):
            path.write_bytes(recording)
        self.samples_path.touch(0o600)
        self.say(
            Transcode(
                self._task_id,
                str(path),
                str(self.samples_path),
                int(begins_after_seconds * SAMPLE_RATE_HZ),
                limits,
            )
        )
        assert self.hear() == TranscodeTaken(self._task_id)
        return self._task_id

    @property
    def samples_path(self) -> Path:
        return self.folder / f"samples-{self._task_id}"

    def decode(self, recording: bytes | Path, **options: Any) -> Transcoded | TranscodeFailed:
        """Hand over a recording and wait for its end."""
        task_id = self.begin(recording, **options)
        end = self.hear()
        assert isinstance(end, Transcoded | TranscodeFailed)
        assert end.task_id == task_id
        return end

    def exit_code(self) -> int | None:
        self.handle.wait(PATIENCE_SECONDS)
        return self.handle.exit_code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start_one(**limits: Any) -> Child:
        children.append(Child(tmp_path, **limits))
        return children[-1]

    yield start_one
    for child in children:
        child.handle.close()


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of mp3 in 7 MB: frames are alike, so a few seconds of them can be repeated."""
    seconds = 20
    one = encoded(
        "mp3",
        "libmp3lame",
        tones(seconds, 16_000),
        options={"write_xing": "0", "id3v2_version": "0"},
        codec_options={"b": "8000"},
    )
    path = tmp_path_factory.mktemp("hours") / "recording"
    with path.open("wb") as file:
        for _ in range(2 * 3600 // seconds):
            file.write(one)
    return path


# ---- what it does --------------------------------------------------------------------------------------------


@child_process
def test_samples_are_those_of_decoding_in_this_process(start: Callable[..., Child]) -> None:
    child = start()
    for recording in (
        riff(np.int16(tones(2.0, 44_100) * 32_767).tobytes(), rate_hz=44_100),
        LOSSLESS["flac"](),
        encoded("ogg", "libopus", rate_hz=48_000),
    ):
        expected = transcode_audio(recording, limits=LIMITS)
        end = child.decode(recording)
        assert isinstance(end, Transcoded)
        assert end.sample_count == len(expected.samples)
        assert end.warnings == expected.warnings
        np.testing.assert_array_equal(np.fromfile(child.samples_path, "<f4"), expected.samples)
    assert child.psutil.is_running()


@child_process
def test_cut_off_recording_is_decoded_with_a_warning(start: Callable[..., Child]) -> None:
    whole = riff(bytes(320_000))
    end = start().decode(whole[: len(whole) // 2])
    assert isinstance(end, Transcoded)
    assert 79_000 < end.sample_count < 81_000
    assert "cut off" in end.warnings[0]


@child_process
def test_bad_recordings_have_their_own_codes_and_the_child_goes_on(start: Callable[..., Child]) -> None:
    child = start()
    for recording, code in (
        (b"", "audio_empty"),
        (b"This is a letter. " * 100, "audio_format_unsupported"),
        (riff(bytes(100)), "audio_too_short"),
        (riff(bytes(32_000), rate_hz=1), "audio_parameters_unsupported"),
        (encoded("mp4", None, picture="mpeg4"), "audio_track_missing"),
    ):
        end = child.decode(recording)
        assert isinstance(end, TranscodeFailed), code
        assert (end.code, end.detail, end.is_last) == (code, "", False)
        assert str(child.folder) not in end.message
    assert isinstance(child.decode(riff(bytes(32_000))), Transcoded)


@child_process
def test_long_recording_begins_before_it_ends(start: Callable[..., Child]) -> None:
    child = start()
    task_id = child.begin(riff(bytes(120 * 32_000)), begins_after_seconds=30)
    begun = child.hear()
    written = child.samples_path.stat().st_size
    assert isinstance(begun, AudioBegun)
    assert (begun.task_id, begun.expected_seconds) == (task_id, 120.0)
    assert written >= 30 * SAMPLE_RATE_HZ * 4
    end = child.hear()
    assert isinstance(end, Transcoded)
    assert end.sample_count == 120 * SAMPLE_RATE_HZ
    assert end.decode_seconds >= begun.decode_seconds > 0


@child_process
def test_short_recording_only_ends(start: Callable[..., Child]) -> None:
    end = start().decode(riff(bytes(30 * 32_000)), begins_after_seconds=30)
    assert isinstance(end, Transcoded)


@child_process
def test_told_to_stop_it_leaves_the_recording_and_takes_the_next(
    start: Callable[..., Child], hours: Path
) -> None:
    child = start()
    task_id = child.begin(hours, begins_after_seconds=60)
    assert isinstance(child.hear(), AudioBegun)
    child.say(StopTranscoding(task_id))
    end = child.hear()
    assert isinstance(end, TranscodeFailed)
    assert end.code == "cancelled"
    child.say(StopTranscoding(task_id))
    assert isinstance(child.decode(riff(bytes(32_000))), Transcoded)


@child_process
def test_it_leaves_after_so_many_recordings_and_says_so(start: Callable[..., Child]) -> None:
    child = start(recordings=2)
    assert not child.decode(riff(bytes(32_000))).is_last
    assert child.decode(riff(bytes(32_000))).is_last
    assert child.exit_code() == 0


@child_process
def test_it_leaves_when_it_has_grown(start: Callable[..., Child]) -> None:
    child = start(growth_bytes=0)
    assert child.decode(riff(bytes(20 * 32_000), rate_hz=44_100)).is_last
    assert child.exit_code() == 0


# ---- its limits ----------------------------------------------------------------------------------------------


@child_process
def test_processor_time_is_bounded_for_each_recording(start: Callable[..., Child], hours: Path) -> None:
    child = start(cpu_seconds=1)
    child.begin(hours)
    with pytest.raises(EOFError):
        child.hear()
    assert child.exit_code() == -signal.SIGXCPU


@child_process
def test_processor_time_of_one_recording_is_not_held_against_the_next(start: Callable[..., Child]) -> None:
    child = start(cpu_seconds=1)
    recording = riff(bytes(60 * 88_200), rate_hz=44_100)
    used = 0.0
    while used < 2.2:
        assert isinstance(child.decode(recording), Transcoded)
        used = sum(child.psutil.cpu_times()[:2])


@child_process
@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the watch may be late for a test to see the peak"
)
def test_memory_is_bounded_whatever_a_table_claims(start: Callable[..., Child]) -> None:
    limit = 200 * MB
    child = start(memory_bytes=limit)
    child.begin(table_of_millions())
    try:
        end = child.hear()
    except EOFError:
        assert child.exit_code() != 0
        return
    assert isinstance(end, TranscodeFailed)
    assert end.code.startswith("audio_")
    assert child.psutil.memory_info().rss < limit
    assert peak_bytes(child.psutil.pid) < limit


@child_process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_same_table_takes_the_memory_where_it_may(start: Callable[..., Child]) -> None:
    child = start(memory_bytes=4096 * MB)
    child.decode(table_of_millions())
    assert peak_bytes(child.psutil.pid) > 300 * MB


def main(limits: TranscodeLimits, pipe: Connection) -> int:
    """A child that believes to be on a system whose limit on the address space does not bind."""
    decode_child._IS_LINUX = False
    return decode_child.main(limits, pipe)


@child_process
def test_where_the_system_does_not_bound_memory_the_child_watches_it(start: Callable[..., Child]) -> None:
    child = start(module=__name__, memory_bytes=200 * MB)
    child.begin(table_of_millions())
    try:
        end = child.hear()
    except EOFError:
        assert child.exit_code() == EXIT_OVER_MEMORY
        return
    # Done before the watch looked again; then it is the last.
    assert isinstance(end, Transcoded | TranscodeFailed)
    assert end.is_last


@child_process
def test_the_childs_own_watch_leaves_ordinary_recordings_alone(start: Callable[..., Child]) -> None:
    child = start(module=__name__)
    for _ in range(3):
        assert isinstance(child.decode(riff(bytes(320_000))), Transcoded)


def peak_bytes(process_id: int) -> int:
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no peak")


@child_process
def test_no_room_for_the_samples_has_a_code_of_its_own_and_the_child_goes_on(
    start: Callable[..., Child],
) -> None:
    child = start(file_bytes=1 * MB)
    end = child.decode(riff(bytes(60 * 32_000)))
    assert isinstance(end, TranscodeFailed)
    assert (end.code, end.is_last) == (DISK_FULL_CODE, False)
    assert child.samples_path.stat().st_size <= MB
    assert isinstance(child.decode(riff(bytes(32_000))), Transcoded)


@child_process
def test_silence_takes_no_room_on_the_disk(start: Callable[..., Child]) -> None:
    child = start()
    recording = riff(np.int16(tones(2.0, 16_000) * 32_767).tobytes() + bytes(600 * 32_000))
    assert isinstance(child.decode(recording), Transcoded)
    expected = transcode_audio(recording, limits=LIMITS).samples
    np.testing.assert_array_equal(np.fromfile(child.samples_path, "<f4"), expected)
    assert child.samples_path.stat().st_blocks * 512 < 2 * MB


@child_process
def test_a_header_may_not_keep_the_child_busy(start: Callable[..., Child]) -> None:
    child = start()
    child.begin(matroska_of_tags(60_000))
    with pytest.raises(EOFError):
        child.hear()
    assert child.exit_code() == -signal.SIGXCPU


@child_process
def test_recording_that_claims_to_be_too_long_is_refused_before_it_is_decoded(
    start: Callable[..., Child],
) -> None:
    child = start()
    end = child.decode(riff(bytes(61 * 32_000)), limits=AudioLimits(max_duration_seconds=60))
    assert isinstance(end, TranscodeFailed)
    assert end.code == "audio_too_long"
    assert child.samples_path.stat().st_size == 0


@child_process
def test_samples_file_that_was_removed_is_not_made_again(start: Callable[..., Child], tmp_path: Path) -> None:
    child = start()
    child.begin(riff(bytes(32_000)))
    assert isinstance(child.hear(), Transcoded)
    (tmp_path / "recording").write_bytes(riff(bytes(32_000)))
    child.say(Transcode(99, str(tmp_path / "recording"), str(tmp_path / "gone"), 10**9, LIMITS))
    assert child.hear() == TranscodeTaken(99)
    end = child.hear()
    assert isinstance(end, TranscodeFailed)
    assert not (tmp_path / "gone").exists()


@child_process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_limits_are_the_systems_own(start: Callable[..., Child]) -> None:
    child = start(cpu_seconds=7, file_bytes=123_456)
    limits = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{child.handle.process_id}/limits").read_text().splitlines()[1:]
    }
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == ["123456", "123456"]
    assert int(limits["Max open files"][1]) <= 32
    assert limits["Max address space"][1] != "unlimited"
    child.decode(riff(bytes(32_000)))
    text = Path(f"/proc/{child.handle.process_id}/limits").read_text()
    assert 7 <= int(text.split("Max cpu time")[1].split()[0]) <= 9


def test_it_loads_no_mlx_and_no_server() -> None:
    program = "import sys, scribewire.engine.audio.transcode_child; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    loaded = set(run.stdout.split())
    assert {"mlx", "tokenizers", "scribewire.server", "fastapi"}.isdisjoint(loaded)
    assert {"av", "scribewire.engine.audio"} <= loaded


# ---- its end -------------------------------------------------------------------------------------------------


@child_process
def test_it_leaves_when_the_front_closes_its_ends(start: Callable[..., Child]) -> None:
    child = start()
    child.handle.pipe.close()
    assert child.exit_code() == EXIT_PARENT_GONE


@child_process
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "decoding"])
def test_it_does_not_outlive_a_front_that_is_killed(tmp_path: Path, hours: Path, is_busy: bool) -> None:
    (tmp_path / "samples").touch()
    program = f"""
import os, signal, sys, time
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.transcoding import Transcode, TranscodeLimits, to_line
from scribewire.engine.processes.launch import start_transcode_child
handle = start_transcode_child(TranscodeLimits())
os.read(handle.pipe.fileno(), 1000)
if {is_busy}:
    task = Transcode(1, {str(hours)!r}, {str(tmp_path / "samples")!r}, 16000, AudioLimits())
    os.write(handle.pipe.fileno(), to_line(task))
    while b"AudioBegun" not in os.read(handle.pipe.fileno(), 1000):
        pass
print(handle.process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    front = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert front.returncode == -signal.SIGKILL, front.stderr
    child_id = int(front.stdout)
    wait_until(lambda: is_gone(child_id))
