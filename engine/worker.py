"""The engine worker: a process around one Transcriber, messages in, messages out.

Started by `engine.protocol.launch`. Three threads: the main one takes work in order of arrival and answers
it, one reads messages so that a cancel is seen while work is in hand, one waits for the front's death and
then ends the process at once, so that no orphan keeps the GPU. MLX itself runs on the Transcriber's own
thread.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import queue
import resource
import sys
import threading
import traceback
from multiprocessing.connection import Connection

import numpy as np

from engine.audio.recording import Recording
from engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig
from engine.protocol.errors import EngineError, EngineFault, EngineUnavailable, RequestCancelled
from engine.protocol.launch import EXIT_ENGINE_FAULT, EXIT_PARENT_GONE
from engine.protocol.messages import (
    AudioSource,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Partial,
    Progress,
    Ready,
    Shutdown,
    Started,
    ToWorker,
    Transcribe,
)
from engine.protocol.transcript import Segment
from engine.transcriber import Transcriber

_HEARTBEAT_SECONDS = 1.0
_WARM_UP_SECONDS = 1.0


def main(config: EngineConfig, pipe: Connection, liveness: Connection) -> int:
    """Run until told to stop or until the front is gone; returns the exit code."""
    faulthandler.enable()
    # The front keeps the end of this stream and shows it while the model loads, and in its log after a death.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    threading.Thread(target=_die_with_parent, args=(liveness,), name="liveness", daemon=True).start()
    outbox = _Outbox(pipe)
    try:
        transcriber = Transcriber(config=config)
        _warm_up(transcriber)
    except EngineError as error:
        outbox.send(LoadFailed(error.code, error.message))
        return 1
    except Exception as error:
        traceback.print_exc()
        outbox.send(LoadFailed(EngineFault.code, f"the model could not be loaded: {error}"))
        return EXIT_ENGINE_FAULT
    outbox.send(Ready(transcriber.info, os.getpid()))
    return _Worker(transcriber, pipe, outbox).run()


def _warm_up(transcriber: Transcriber) -> None:
    """Compile every kernel before the first request pays for it: one second of quiet noise."""
    noise = np.random.default_rng(0).normal(0.0, 1e-3, int(_WARM_UP_SECONDS * SAMPLE_RATE_HZ))
    transcriber.transcribe(noise.astype(np.float32), max_tokens=4)


def _die_with_parent(liveness: Connection) -> None:
    """Block until the front's end closes, however it died."""
    with contextlib.suppress(EOFError, OSError):
        liveness.recv_bytes()
    os._exit(EXIT_PARENT_GONE)


class _Outbox:
    """The pipe's sending side, shared by threads."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, message: FromWorker) -> None:
        """Send, or end the process when the front is gone."""
        try:
            with self._lock:
                self._pipe.send(message)
        except (BrokenPipeError, OSError):
            os._exit(EXIT_PARENT_GONE)


class _Worker:
    """Work in order of arrival, one request at a time (batching across requests will replace this loop)."""

    def __init__(self, transcriber: Transcriber, pipe: Connection, outbox: _Outbox) -> None:
        self._transcriber = transcriber
        self._pipe = pipe
        self._outbox = outbox
        self._waiting: queue.SimpleQueue[Transcribe | None] = queue.SimpleQueue()
        self._open: set[str] = set()
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()
        self._active = 0
        self._is_stopping = threading.Event()

    def run(self) -> int:
        """Serve until a Shutdown has been obeyed."""
        threading.Thread(target=self._read_messages, name="inbox", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        while (message := self._waiting.get()) is not None:
            exit_code = self._answer(message)
            if exit_code:
                return exit_code
        self._transcriber.close()
        return 0

    def _read_messages(self) -> None:
        while True:
            try:
                message: ToWorker = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(EXIT_PARENT_GONE)
            if isinstance(message, Transcribe):
                self._admit(message)
            elif isinstance(message, Cancel):
                with self._lock:
                    if message.request_id in self._open:
                        self._cancelled.add(message.request_id)
            elif isinstance(message, Shutdown):
                self._stop(message)

    def _admit(self, message: Transcribe) -> None:
        if self._is_stopping.is_set():
            error = EngineUnavailable("the server is shutting down")
            self._outbox.send(Failed(message.request_id, error.code, error.message))
            return
        with self._lock:
            self._open.add(message.request_id)
        self._waiting.put(message)

    def _stop(self, message: Shutdown) -> None:
        """Let waiting work finish within the time given, then cancel what is left."""
        self._is_stopping.set()
        self._waiting.put(None)

        def cancel_the_rest() -> None:
            with self._lock:
                self._cancelled.update(self._open)

        timer = threading.Timer(message.drain_seconds, cancel_the_rest)
        timer.daemon = True
        timer.start()

    def _answer(self, message: Transcribe) -> int:
        """Do the work and send its one end; returns an exit code when the process must be replaced."""
        request_id, options = message.request_id, message.options
        self._active = 1
        self._outbox.send(Started(request_id))
        try:
            if self._is_cancelled(request_id):
                raise RequestCancelled("the transcription was cancelled")
            transcript = self._transcriber.transcribe(
                _recording(message.audio),
                language=options.language,
                prompt=options.prompt,
                temperature=options.temperature,
                seed=options.seed,
                max_tokens=options.max_tokens,
                logprobs=options.logprobs,
                on_progress=lambda done, total: self._outbox.send(Progress(request_id, done, total)),
                on_segment=self._partial_sender(message),
                is_cancelled=lambda: self._is_cancelled(request_id),
            )
        except EngineError as error:
            end: Completed | Failed = Failed(request_id, error.code, error.message, error.parameter)
        except Exception as error:
            traceback.print_exc()
            reason = f"the engine failed: {type(error).__name__}"
            self._outbox.send(Failed(request_id, EngineFault.code, reason))
            # A failed device poisons later evaluations, so the process is replaced, never repaired.
            return EXIT_ENGINE_FAULT
        else:
            end = Completed(request_id, transcript)
        self._active = 0
        with self._lock:
            self._open.discard(request_id)
            self._cancelled.discard(request_id)
        self._outbox.send(end)
        return 0

    def _partial_sender(self, message: Transcribe) -> _SegmentSender | None:
        return _SegmentSender(message.request_id, self._outbox) if message.wants_partials else None

    def _is_cancelled(self, request_id: str) -> bool:
        return request_id in self._cancelled

    def _beat(self) -> None:
        while not self._is_stopping.wait(_HEARTBEAT_SECONDS):
            counters = self._transcriber.counters
            self._outbox.send(
                Heartbeat(
                    chunks_done=counters.chunks_done,
                    tokens_done=counters.tokens_done,
                    active_requests=self._active,
                    queued_requests=self._waiting.qsize(),
                    resident_bytes=_peak_resident_bytes(),
                )
            )


class _SegmentSender:
    """Sends each segment of one request as a Partial."""

    def __init__(self, request_id: str, outbox: _Outbox) -> None:
        self._request_id = request_id
        self._outbox = outbox

    def __call__(self, segment: Segment) -> None:
        self._outbox.send(Partial(self._request_id, segment))


def _recording(source: AudioSource) -> Recording:
    if source.kind == "pcm_float32":
        return np.memmap(source.path, dtype="<f4", mode="r")
    return source.path


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
