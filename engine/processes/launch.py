"""Starting the engine's processes: by module name, in a spawned child only.

The parent calls these functions and never imports what runs in the child, which imports it by name. Nothing of the
engine but `scribewire.engine.protocol` is loaded on this side.
"""

from __future__ import annotations

from scribewire.engine.processes.allocator import allocator_environment
from scribewire.engine.processes.child import ChildProcess
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.speakers import DiarizationConfig
from scribewire.engine.protocol.transcoding import TranscodeLimits

WORKER_MODULE = "scribewire.engine.worker"
TRANSCODE_CHILD_MODULE = "scribewire.engine.audio.transcode_child"
SPEAKER_CHILD_MODULE = "scribewire.engine.speakers.child"
VOICE_DETECTOR_MODULE = "scribewire.engine.audio.vad_child"


def start_worker(config: EngineConfig, *, module: str = WORKER_MODULE) -> ChildProcess:
    """Spawn a worker. Its messages are pickles, of which the first is `Ready` or `LoadFailed`."""
    environment = allocator_environment(config.device)
    return ChildProcess(module, config, name="scribewire-engine", environment=environment)


def start_transcode_child(limits: TranscodeLimits, *, module: str = TRANSCODE_CHILD_MODULE) -> ChildProcess:
    """Spawn a transcode child.

    Its messages are lines of `scribewire.engine.protocol.transcoding`, of which the first is TranscoderReady.
    """
    return ChildProcess(module, limits, name="scribewire-decode")


def start_speaker_child(config: DiarizationConfig, *, module: str = SPEAKER_CHILD_MODULE) -> ChildProcess:
    """Spawn a speaker child.

    Its messages are pickles of `scribewire.engine.protocol.speakers`; the first is DiarizerReady or
    DiarizerUnavailable.
    """
    return ChildProcess(module, config, name="scribewire-speakers")


def start_voice_detector(*, module: str = VOICE_DETECTOR_MODULE) -> ChildProcess:
    """Spawn a voice detector. Its messages are raw frames, as `scribewire.engine.audio.voice_frames` has them."""
    return ChildProcess(module, None, name="scribewire-voices")
