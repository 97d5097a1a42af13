"""Diarization: options, results, and the messages between a parent and the speaker child.

Pickled by multiprocessing's Connection between two processes of the same installation; samples cross by path. Every
`Diarize` is answered by any number of `DiarizeProgress` and exactly one `Diarized` or `DiarizeFailed`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scribewire.engine.protocol.errors import OptionInvalid

DEFAULT_DIARIZATION_MODEL = "pyannote/speaker-diarization-community-1"
SPEAKERS_EXTRA = ".venv/bin/pip install -e '.[speakers]'"
MAX_SPEAKERS = 100


@dataclass(frozen=True, slots=True)
class SpeakerOptions:
    """Options of one recording whose speakers are to be told apart.

    num_speakers: how many there are, where that is known. min_speakers, max_speakers: bounds, where it is not.
    known_names: names to be used for the voices of `references`, in the same order; further ones are not used.
    references: short recordings of one voice each, as data URLs.
    """

    num_speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    known_names: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse counts that make no sense; raises OptionInvalid naming the field."""
        for name in ("num_speakers", "min_speakers", "max_speakers"):
            count = getattr(self, name)
            if count is not None and not 1 <= count <= MAX_SPEAKERS:
                raise OptionInvalid(f"{name} must be from 1 to {MAX_SPEAKERS}, not {count}", parameter=name)
        if self.num_speakers is not None and (self.min_speakers is not None or self.max_speakers is not None):
            raise OptionInvalid(
                "num_speakers says it all; leave min_speakers and max_speakers out", parameter="num_speakers"
            )
        if self.min_speakers is not None and self.min_speakers > (self.max_speakers or MAX_SPEAKERS):
            raise OptionInvalid("min_speakers is more than max_speakers", parameter="min_speakers")


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """A stretch in which one speaker speaks; stretches of different speakers may overlap."""

    start_seconds: float
    end_seconds: float
    speaker: str


@dataclass(frozen=True, slots=True)
class DiarizationConfig:
    """Configuration of a speaker child.

    model: a folder or a Hugging Face id of a pyannote.audio pipeline. device: auto, cpu, cuda or mps.
    offline: never ask the hub. memory_bytes: resident memory above which the child ends itself; 0 for any.
    """

    model: str = DEFAULT_DIARIZATION_MODEL
    device: str = "auto"
    offline: bool = False
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class VoiceReference:
    """A voice that has a name, as raw 16 kHz mono little-endian float32 in a file."""

    name: str
    samples_path: str


# ---- parent -> child -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Diarize:
    """One recording, whole, as raw 16 kHz mono little-endian float32 in a file."""

    task_id: int
    samples_path: str
    num_speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    references: tuple[VoiceReference, ...] = ()


@dataclass(frozen=True, slots=True)
class StopDiarizing:
    """Leave this recording as soon as the pipeline lets go, with DiarizeFailed; other ids are ignored."""

    task_id: int


# ---- child -> parent -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiarizerReady:
    """Sent once, first: the pipeline is loaded."""

    process_id: int
    device: str


@dataclass(frozen=True, slots=True)
class DiarizerUnavailable:
    """Sent once, first, when it cannot be: the extra, the token or the accepted terms are missing. The child exits.

    message: one sentence that says what to install or accept.
    """

    message: str


@dataclass(frozen=True, slots=True)
class DiarizeProgress:
    """Progress of one step of the pipeline, from 0 to 1; sent now and then, as a sign of life."""

    task_id: int
    step: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Diarized:
    """A recording's one successful end: turns in order of their start, and plain sentences."""

    task_id: int
    turns: tuple[SpeakerTurn, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiarizeFailed:
    """A recording's one failed end. detail: for the log."""

    task_id: int
    message: str
    detail: str = ""


ToDiarizer = Diarize | StopDiarizing
FromDiarizer = DiarizerReady | DiarizerUnavailable | DiarizeProgress | Diarized | DiarizeFailed
