"""The engine worker: a process around one Transcriber, messages in, messages out.

Started by `scribewire.engine.processes.launch`. The main thread reads messages and submits recordings, so that a
cancel is seen while work is in flight; one thread sends heartbeats. MLX itself runs on the Transcriber's own thread,
and so do all answers. The process ends at once when the front does, so that no orphan keeps the GPU.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection

from scribewire.engine.audio.recording import PcmFile
from scribewire.engine.processes.child import EXIT_ENGINE_FAULT, EXIT_PARENT_GONE
from scribewire.engine.processes.memory import (
    give_large_buffers_back,
    leave_out_of_collections,
    peak_resident_bytes,
    resident_bytes,
)
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import EngineError, EngineFault, EngineUnavailable, error_from_code
from scribewire.engine.protocol.messages import (
    AudioEnded,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Progress,
    Ready,
    SegmentDone,
    Shutdown,
    Started,
    TextDelta,
    ToWorker,
    Transcribe,
)
from scribewire.engine.protocol.transcript import Transcript
from scribewire.engine.resident.memory import memory_use
from scribewire.engine.transcriber import Listener, RecordingWork, TranscribeItem, Transcriber

_HEARTBEAT_SECONDS = 1.0


def main(config: EngineConfig, pipe: Connection) -> int:
    """Run until a Shutdown or the front's death; returns the exit code."""
    faulthandler.enable()
    give_large_buffers_back()
    leave_out_of_collections()
    # A front that finds this process stuck asks for the stacks of its threads before it ends it.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # The front keeps the end of this stream and shows it while the model loads, and in its log after a death.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    outbox = _Outbox(pipe)
    try:
        transcriber = Transcriber(config=config, on_fault=_leave)
        transcriber.warm_up()
    except EngineError as error:
        outbox.send(LoadFailed(error.code, error.message))
        return 1
    except Exception as error:
        traceback.print_exc()
        outbox.send(LoadFailed(EngineFault.code, f"the model could not be loaded: {error}"))
        return EXIT_ENGINE_FAULT
    outbox.send(Ready(transcriber.info, os.getpid()))
    return _Worker(transcriber, pipe, outbox).run()


def _leave(error: BaseException) -> None:
    """Exit: a failed device poisons later evaluations, so the process is replaced, never repaired."""
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(EXIT_ENGINE_FAULT)


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


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A recording in flight. pcm: its audio, where that is a file of samples."""

    work: RecordingWork
    pcm: PcmFile | None


class _Worker:
    """Requests by id, each answered by exactly one end."""

    def __init__(self, transcriber: Transcriber, pipe: Connection, outbox: _Outbox) -> None:
        self._transcriber = transcriber
        self._pipe = pipe
        self._outbox = outbox
        self._in_flight: dict[str, _InFlight] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def run(self) -> int:
        """Serve until a Shutdown is done."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        self._stop(self._read(self._take))
        return 0

    def _read(self, take: Callable[[Transcribe], None]) -> Shutdown:
        """Handle messages up to a Shutdown."""
        while True:
            try:
                message: ToWorker = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(EXIT_PARENT_GONE)
            if isinstance(message, Transcribe):
                take(message)
            elif isinstance(message, AudioEnded):
                self._end_audio(message)
            elif isinstance(message, Cancel):
                self._cancel(message.request_id)
            elif isinstance(message, Shutdown):
                return message

    def _take(self, message: Transcribe) -> None:
        request_id = message.request_id
        source = message.audio
        pcm = None
        if source.kind == "pcm_float32":
            pcm = PcmFile(source.path, is_growing=source.is_growing, expected_seconds=source.expected_seconds)
        try:
            work = self._transcriber.submit(
                TranscribeItem.of(source.path if pcm is None else pcm, message.options),
                listener=self._listener(message),
                owner=message.owner,
                is_interactive=message.priority == "interactive",
            )
        except EngineError as error:
            self._fail(request_id, error)
            return
        with self._lock:
            self._in_flight[request_id] = _InFlight(work, pcm)
        work.future.add_done_callback(lambda future: self._answer(request_id, future))

    def _listener(self, message: Transcribe) -> Listener:
        request_id, send = message.request_id, self._outbox.send
        return Listener(
            on_started=lambda: send(Started(request_id)),
            on_progress=lambda done, total: send(Progress(request_id, done, total)),
            on_segment=(lambda segment: send(SegmentDone(request_id, segment)))
            if message.wants_segments
            else None,
            on_delta=(lambda delta, logprobs: send(TextDelta(request_id, delta, logprobs)))
            if message.wants_deltas
            else None,
        )

    def _answer(self, request_id: str, future: Future[Transcript]) -> None:
        with self._lock:
            self._in_flight.pop(request_id, None)
        error = future.exception()
        if error is None:
            self._outbox.send(Completed(request_id, future.result()))
        elif isinstance(error, EngineError):
            self._fail(request_id, error)
        else:
            traceback.print_exception(error)
            self._fail(request_id, EngineFault(f"the recording could not be read: {type(error).__name__}"))

    def _fail(self, request_id: str, error: EngineError) -> None:
        self._outbox.send(Failed(request_id, error.code, error.message, error.parameter))

    def _end_audio(self, message: AudioEnded) -> None:
        with self._lock:
            in_hand = self._in_flight.get(message.request_id)
        if in_hand is not None and in_hand.pcm is not None:
            failure = None if message.failure is None else error_from_code(*message.failure)
            in_hand.pcm.end(message.sample_count, failure)

    def _cancel(self, request_id: str) -> None:
        with self._lock:
            in_hand = self._in_flight.get(request_id)
        if in_hand is not None:
            self._transcriber.cancel(in_hand.work)

    def _stop(self, message: Shutdown) -> None:
        """Let work in flight finish within the given time, then cancel what is left; refuse what still comes."""
        threading.Thread(target=self._read, args=(self._refuse,), name="refuse", daemon=True).start()
        timer = threading.Timer(message.drain_seconds, self._cancel_all)
        timer.daemon = True
        timer.start()
        self._transcriber.close()
        self._is_over.set()

    def _refuse(self, message: Transcribe) -> None:
        self._fail(message.request_id, EngineUnavailable("the server is shutting down"))

    def _cancel_all(self) -> None:
        with self._lock:
            works = [in_hand.work for in_hand in self._in_flight.values()]
        for work in works:
            self._transcriber.cancel(work)

    def _beat(self) -> None:
        while not self._is_over.wait(_HEARTBEAT_SECONDS):
            counters, memory = self._transcriber.counters, memory_use()
            self._outbox.send(
                Heartbeat(
                    chunks_done=counters.chunks_done,
                    tokens_done=counters.tokens_done,
                    words_done=counters.words_done,
                    steps_done=counters.steps_done,
                    row_slots_done=counters.row_slots_done,
                    active_requests=counters.open_recordings,
                    queued_requests=max(0, len(self._in_flight) - counters.open_recordings),
                    resident_bytes=resident_bytes() or 0,
                    peak_bytes=peak_resident_bytes(),
                    batch_rows=counters.batch_rows,
                    reserved_tokens=counters.reserved_tokens,
                    device_active_bytes=memory.active_bytes,
                    device_peak_bytes=memory.peak_bytes,
                    device_cache_bytes=memory.cache_bytes,
                    is_loading=counters.is_loading,
                )
            )
