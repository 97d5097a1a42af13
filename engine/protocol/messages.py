"""Typed messages over the pipe between the front and the engine worker.

Small frozen values, pickled by multiprocessing's Connection between two processes of the same installation. Audio
never crosses the pipe: it is named by path. Every `Transcribe` is answered by exactly one `Completed` or `Failed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript

PROTOCOL_VERSION = 4


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Location of a recording.

    kind: `container` is a file as uploaded, transcoded by the worker; `pcm_float32` is raw 16 kHz mono little-endian
    float32, which the worker maps.
    is_growing: only with `pcm_float32`: another process still appends to the file, and an `AudioEnded` will say when
    that is over. The worker reads what is there and waits for the rest.
    expected_seconds: length that the recording claims to have, for progress only; None when it is not known.
    """

    path: str
    kind: Literal["container", "pcm_float32"] = "container"
    is_growing: bool = False
    expected_seconds: float | None = None


# ---- front -> worker -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transcribe:
    """One recording to transcribe.

    owner and priority are for the scheduler: work of one owner shares that owner's part of the machine, and
    `interactive` work goes before `background` work.
    wants_segments: send each finished segment as a `SegmentDone`. wants_deltas: send text as it is decoded as
    `TextDelta`.
    """

    request_id: str
    audio: AudioSource
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    owner: str = ""
    priority: Literal["interactive", "background"] = "interactive"
    wants_segments: bool = False
    wants_deltas: bool = False


@dataclass(frozen=True, slots=True)
class AudioEnded:
    """End of this request's growing audio: complete, or its writer failed. Unknown ids are ignored.

    sample_count: samples in the file; what lies beyond is not read.
    failure: None, or the (code, message, parameter) of an engine error, with which the request then fails.
    """

    request_id: str
    sample_count: int
    failure: tuple[str, str, str | None] | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop this request at the next decode step; it is answered by Failed(cancelled). Unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Finish what is in flight within the given time, refuse the rest, exit 0."""

    drain_seconds: float = 0.0


# ---- worker -> front -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is resident and warm; sent once, before anything else but LoadFailed."""

    info: ModelInfo
    process_id: int
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded; the worker exits. Starting it again will not help until the cause is fixed."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent about once a second, with counters that grow when work is done: equal ones mean that nothing moves.

    words_done: words that were timed. steps_done: of the running batch. row_slots_done: rows that those computed.
    resident_bytes: of the worker's process now, 0 where the system does not say; peak_bytes: the most it ever held.
    batch_rows: sequences in the running batch. reserved_tokens: what they may come to hold, of the memory budget.
    device_active_bytes, device_peak_bytes, device_cache_bytes: what MLX holds, has held, and keeps for reuse.
    is_loading: a model is being read into memory, and until that is over nothing else moves.
    """

    chunks_done: int
    tokens_done: int
    active_requests: int
    queued_requests: int
    resident_bytes: int
    peak_bytes: int = 0
    words_done: int = 0
    steps_done: int = 0
    row_slots_done: int = 0
    batch_rows: int = 0
    reserved_tokens: int = 0
    device_active_bytes: int = 0
    device_peak_bytes: int = 0
    device_cache_bytes: int = 0
    is_loading: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The worker has started this request; it is no longer queued behind others."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a recording, in seconds of audio; `audio_seconds_total` may be an estimate while it is read."""

    request_id: str
    audio_seconds_done: float
    audio_seconds_total: float


@dataclass(frozen=True, slots=True)
class SegmentDone:
    """A finished segment, sent as soon as it is known when `wants_segments` was set."""

    request_id: str
    segment: Segment


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that follows everything sent before, sent while decoding goes on when `wants_deltas` was set.

    The deltas of a request, joined, are its transcript's text, always. logprobs: of the tokens whose text this is,
    where the options request them.
    """

    request_id: str
    delta: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completed:
    """The request's one end, when it went well."""

    request_id: str
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Failed:
    """The request's one end, when it did not."""

    request_id: str
    code: str
    message: str
    parameter: str | None = None


ToWorker = Transcribe | AudioEnded | Cancel | Shutdown
FromWorker = (
    Ready | LoadFailed | Heartbeat | Started | Progress | SegmentDone | TextDelta | Completed | Failed
)
