"""The speaker child: loads a pipeline and diarizes one recording after another.

Started by `scribewire.engine.processes.launch`, beside the engine, which goes on meanwhile. It reads samples that the
transcode child wrote, never an untrusted file. If something is missing at the start, its only message says so.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

from scribewire.engine.processes.child import EXIT_OVER_MEMORY, EXIT_PARENT_GONE
from scribewire.engine.processes.memory import peak_resident_bytes, resident_bytes
from scribewire.engine.protocol.speakers import (
    SPEAKERS_EXTRA,
    DiarizationConfig,
    Diarize,
    Diarized,
    DiarizeFailed,
    DiarizeProgress,
    DiarizerReady,
    DiarizerUnavailable,
    FromDiarizer,
    StopDiarizing,
)
from scribewire.engine.speakers.labels import Embedding, PipelineOutput, turns_of

PIPELINE_MODULE = "scribewire.engine.speakers.pyannote_pipeline"

_MEMORY_WATCH_SECONDS = 0.5
_PROGRESS_SECONDS = 1.0

OnStep = Callable[[str, float], None]
"""Called with a step's name and its progress; may raise to end the recording."""


class PipelineUnavailable(Exception):
    """There is no pipeline; the message says what to do, in one sentence."""


class SpeakerPipeline(Protocol):
    """A finder of speakers in samples."""

    @property
    def device(self) -> str:
        """The device that it computes on."""

    def find(
        self,
        samples_path: str,
        *,
        num_speakers: int | None,
        min_speakers: int | None,
        max_speakers: int | None,
        on_step: OnStep,
    ) -> PipelineOutput:
        """The speakers of raw 16 kHz mono float32 in a file."""


Load = Callable[[DiarizationConfig], SpeakerPipeline]


def main(config: DiarizationConfig, pipe: Connection) -> int:
    """Serve the parent with pyannote.audio until it closes the pipe; returns the exit code."""
    return serve(config, pipe, load=load_pyannote)


def load_pyannote(config: DiarizationConfig) -> SpeakerPipeline:
    """The pipeline that the configuration names; raises PipelineUnavailable."""
    try:
        module = importlib.import_module(PIPELINE_MODULE)
    except ImportError as error:
        raise PipelineUnavailable(
            f"telling speakers apart needs an extra: {SPEAKERS_EXTRA} "
            f"(and, for the model {config.model}, accepted terms on its page at Hugging Face and a token: "
            f"`hf auth login` or HF_TOKEN); {error}"
        ) from error
    pipeline: SpeakerPipeline = module.load(config)
    return pipeline


def serve(config: DiarizationConfig, pipe: Connection, *, load: Load) -> int:
    """Serve the parent with any pipeline."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(message)s")
    if config.memory_bytes:
        threading.Thread(
            target=_watch_memory, args=(config.memory_bytes,), name="memory", daemon=True
        ).start()
    channel = _Channel(pipe)
    try:
        pipeline = load(config)
    except PipelineUnavailable as error:
        channel.send(DiarizerUnavailable(" ".join(str(error).split())))
        return 0
    channel.send(DiarizerReady(os.getpid(), pipeline.device))
    while (task := channel.receive()) is not None:
        if isinstance(task, Diarize):
            channel.send(_answer(task, pipeline, channel))
    return EXIT_PARENT_GONE


def _answer(task: Diarize, pipeline: SpeakerPipeline, channel: _Channel) -> Diarized | DiarizeFailed:
    try:
        return _diarize(task, pipeline, channel)
    except _Stopped:
        return DiarizeFailed(task.task_id, "stopped")
    except MemoryError:
        return DiarizeFailed(task.task_id, "there was not enough memory to tell the speakers apart")
    except Exception as error:
        traceback.print_exc()
        shown = f"the speakers could not be told apart ({type(error).__name__})"
        return DiarizeFailed(task.task_id, shown, detail=" ".join(str(error).split())[:500])


def _diarize(task: Diarize, pipeline: SpeakerPipeline, channel: _Channel) -> Diarized:
    def on_step(step: str, fraction: float) -> None:
        channel.raise_if_stopped(task.task_id)
        channel.note(DiarizeProgress(task.task_id, step, fraction))

    channel.note(DiarizeProgress(task.task_id, "loading", 0.0))
    found = pipeline.find(
        task.samples_path,
        num_speakers=task.num_speakers,
        min_speakers=task.min_speakers,
        max_speakers=task.max_speakers,
        on_step=on_step,
    )
    known: list[tuple[str, Embedding]] = []
    notices: list[str] = []
    if task.references and found.embeddings is None:
        notices.append(
            "the pipeline gives no embeddings of voices, so known speakers could not be recognized"
        )
    elif found.voices:
        for reference in task.references:
            own = pipeline.find(
                reference.samples_path, num_speakers=1, min_speakers=None, max_speakers=None, on_step=on_step
            )
            voice = own.loudest()
            if voice is None:
                notices.append(f"no voice was found in the reference of {reference.name}")
            else:
                known.append((reference.name, voice))
    return Diarized(task.task_id, turns_of(found, known), tuple(notices))


class _Stopped(Exception):
    """The parent has stopped this recording."""


class _Channel:
    """Messages over the pipe, used by the main thread, and a sign of life each second while there is work."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._progress: DiarizeProgress | None = None
        self._reported_at = -math.inf
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def send(self, message: FromDiarizer) -> None:
        """Send, or end the process when the parent is gone."""
        try:
            with self._lock:
                self._progress = message if isinstance(message, DiarizeProgress) else None
                self._reported_at = -math.inf if self._progress is None else time.monotonic()
                self._pipe.send(message)
        except OSError:
            os._exit(EXIT_PARENT_GONE)

    def note(self, progress: DiarizeProgress) -> None:
        """Send progress, unless some was sent within the last second; it is then sent later, if none follows."""
        if time.monotonic() - self._reported_at >= _PROGRESS_SECONDS:
            self.send(progress)
        self._progress = progress

    def _beat(self) -> None:
        while True:
            time.sleep(_PROGRESS_SECONDS)
            # A step of a library may be long; a process that is stopped says nothing at all.
            with self._lock, contextlib.suppress(OSError):
                if self._progress is not None:
                    self._pipe.send(self._progress)

    def receive(self) -> Diarize | StopDiarizing | None:
        """The next message, waiting for it; None when the parent has closed the pipe."""
        try:
            message: Diarize | StopDiarizing = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return message

    def raise_if_stopped(self, task_id: int) -> None:
        """Raise _Stopped when the parent has stopped the recording, or is gone."""
        while self._pipe.poll():
            message = self.receive()
            if message is None or (isinstance(message, StopDiarizing) and message.task_id == task_id):
                raise _Stopped


def _watch_memory(limit_bytes: int) -> None:
    while (resident_bytes() or peak_resident_bytes()) <= limit_bytes:
        time.sleep(_MEMORY_WATCH_SECONDS)
    print(f"more than {limit_bytes} bytes of memory were needed", file=sys.stderr, flush=True)
    os._exit(EXIT_OVER_MEMORY)
