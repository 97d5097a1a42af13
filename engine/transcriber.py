"""Audio in, transcript out: the engine as a Python object.

A `Transcriber` owns one model and the one thread that touches MLX; there are no hidden globals, and two of them do not
know of each other. Every recording, submitted from any thread or from asyncio, joins the same running batch
(`scribewire.engine.pipeline`). It serves no HTTP and keeps no jobs.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from scribewire.engine.audio.recording import Recording
from scribewire.engine.pipeline import Pipeline
from scribewire.engine.protocol.config import AUTO_ALIGNER, SAMPLE_RATE_HZ, Chunking, EngineConfig, ModelInfo
from scribewire.engine.protocol.errors import EngineError, EngineFault, EngineUnavailable
from scribewire.engine.protocol.transcript import Transcript
from scribewire.engine.recording.work import (
    Listener,
    ProgressCallback,
    RecordingWork,
    SegmentCallback,
    SharedProgress,
    TranscribeItem,
)
from scribewire.engine.resident.counters import WorkCounters
from scribewire.engine.resident.memory import leave_mlx
from scribewire.engine.resident.model import ResidentModel
from scribewire.engine.resident.profile import DeviceProfile, choose_profile

__all__ = [
    "Listener",
    "ProgressCallback",
    "Recording",
    "RecordingWork",
    "SegmentCallback",
    "TranscribeItem",
    "Transcriber",
]

_Arrival = RecordingWork | Future[None]
"""Message to the engine's thread: a recording, or a request to warm up, which ends with the future."""

_AUDIO_POLL_SECONDS = 0.01
_LEAST_WAIT_SECONDS = 0.001
_WARM_UP_SECONDS = 1.0
_WARM_UP_ROWS = (1, 8)
_WARM_UP_TOKENS = 4


class Transcriber:
    """A resident model. Usable from any thread and from asyncio; all calls share one running batch.

    model: a folder, a Hugging Face id, or `demo`. dtype, device, aligner, preload_aligner: see EngineConfig.
    on_fault: called, on the engine's thread, with an error that is not the recording's: the device or our own code
    failed and all work in flight with it. Without it, only `is_broken` says so.
    load, profile: make the resident model and choose the device's profile, both on the engine's thread.
    raises: ModelError subtypes, each naming what is wrong and what to do.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        offline: bool = False,
        aligner: str = AUTO_ALIGNER,
        preload_aligner: bool = False,
        config: EngineConfig | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
        load: Callable[[EngineConfig, DeviceProfile], ResidentModel] = ResidentModel,
        profile: Callable[[EngineConfig], DeviceProfile] = choose_profile,
    ) -> None:
        config = config or EngineConfig(
            dtype=dtype, device=device, offline=offline, aligner=aligner, preload_aligner=preload_aligner
        )
        self.config = config if model is None else replace(config, model=str(model))
        self.counters = WorkCounters()
        self.is_broken = False
        self._on_fault = on_fault
        self._load_model = load
        self._profile = profile
        self._inbox: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self._is_closing = False
        self._is_leaving = False
        self._info: ModelInfo | None = None
        self._resident: Pipeline | None = None
        self._lock = threading.Lock()
        loaded: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run_engine, args=(loaded,), name="scribewire-mlx", daemon=True
        )
        self._thread.start()
        try:
            loaded.result()
        except BaseException:
            if loaded.done():
                self._thread.join()  # a process that ends while its thread leaves MLX may abort
            raise
        atexit.register(self._leave)

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""
        assert self._info is not None
        return self._info

    @property
    def is_resident(self) -> bool:
        """True while the model is in memory; an idle one may have been unloaded."""
        return self._resident is not None

    def submit(
        self,
        item: TranscribeItem,
        *,
        listener: Listener | None = None,
        owner: str = "",
        is_interactive: bool = True,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> RecordingWork:
        """Submit a recording to the running batch; returns at once. Its `future` is its end, `cancel` stops it.

        owner, is_interactive: for the scheduler (scribewire.engine.batching.scheduler).
        is_cancelled: called on the engine's thread at every step.
        raises: OptionInvalid, EngineUnavailable after `close`
        """
        work = RecordingWork(
            item, listener=listener, owner=owner, is_interactive=is_interactive, is_cancelled=is_cancelled
        )
        self._send(work)
        return work

    def cancel(self, work: RecordingWork) -> None:
        """Stop a submitted recording at the next decode step."""
        work.cancel()
        self._inbox.put(None)

    def transcribe(
        self,
        audio: Recording,
        *,
        language: str | None = None,
        prompt: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        max_tokens: int | None = None,
        logprobs: bool = False,
        words: bool = False,
        words_optional: bool = False,
        chunking: Chunking | None = None,
        on_progress: ProgressCallback | None = None,
        on_segment: SegmentCallback | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Transcript:
        """Transcribe one recording; blocks until it is done. For further options see `transcribe_item`.

        words: also find out when each word was said (Segment.words), by the aligner that the configuration names.
        words_optional: without one, transcribe all the same and say so in the warnings.
        chunking: how the recording is cut; at its pauses when None.
        on_progress, on_segment: called from the engine's thread. is_cancelled: called there at every decode step.
        raises: AudioError, LanguageUnknown, LanguageUnsupported, OptionInvalid, PromptTooLong, AlignerMissing,
        RequestCancelled.
        """
        item = TranscribeItem(
            audio, language=language, prompt=prompt, temperature=temperature, seed=seed, max_tokens=max_tokens,
            logprobs=logprobs, words=words, words_optional=words_optional, chunking=chunking or Chunking(),
        )  # fmt: skip
        listener = Listener(on_progress=on_progress, on_segment=on_segment)
        return self.transcribe_item(item, listener=listener, is_cancelled=is_cancelled)

    def transcribe_item(
        self,
        item: TranscribeItem,
        *,
        listener: Listener | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Transcript:
        """`transcribe` with every option and with text as it is decoded; blocks and raises alike."""
        return self._wait([self.submit(item, listener=listener, is_cancelled=is_cancelled)])[0]

    def transcribe_many(
        self,
        items: Several[Recording | TranscribeItem],
        *,
        on_progress: ProgressCallback | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> list[Transcript]:
        """Transcribe several recordings side by side, each with its own language and prompt; results in order.

        The first recording that cannot be read ends the call with its error.
        raises: as transcribe.
        """
        return self._wait(self._submit_many(items, on_progress, is_cancelled))

    async def transcribe_async(
        self,
        audio: Recording,
        *,
        language: str | None = None,
        prompt: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        max_tokens: int | None = None,
        logprobs: bool = False,
        words: bool = False,
        words_optional: bool = False,
        chunking: Chunking | None = None,
        on_progress: ProgressCallback | None = None,
        on_segment: SegmentCallback | None = None,
    ) -> Transcript:
        """`transcribe` for asyncio; cancelling the task stops the work at the next decode step."""
        item = TranscribeItem(
            audio, language=language, prompt=prompt, temperature=temperature, seed=seed, max_tokens=max_tokens,
            logprobs=logprobs, words=words, words_optional=words_optional, chunking=chunking or Chunking(),
        )  # fmt: skip
        listener = Listener(on_progress=on_progress, on_segment=on_segment)
        return (await self._wait_async([self.submit(item, listener=listener)]))[0]

    async def transcribe_many_async(
        self, items: Several[Recording | TranscribeItem], *, on_progress: ProgressCallback | None = None
    ) -> list[Transcript]:
        """`transcribe_many` for asyncio."""
        return await self._wait_async(self._submit_many(items, on_progress, None))

    def warm_up(self) -> None:
        """Compile every kernel before the first request: a second of quiet noise, alone and in a batch.

        Where new shapes are expensive the usual ones come first (scribewire.engine.resident.warmup).
        raises: EngineUnavailable after `close`, and what the device failed with
        """
        warmed_up: Future[None] = Future()
        self._send(warmed_up)
        warmed_up.result()
        noise = np.random.default_rng(0).normal(0.0, 1e-3, int(_WARM_UP_SECONDS * SAMPLE_RATE_HZ))
        item = TranscribeItem(noise.astype(np.float32), max_tokens=_WARM_UP_TOKENS)
        for rows in _WARM_UP_ROWS:
            self.transcribe_many([item] * rows)

    def close(self) -> None:
        """Wait for the calls in flight and give the model's memory back."""
        with self._lock:
            self._is_closing = True
        self._inbox.put(None)
        self._thread.join()
        atexit.unregister(self._leave)

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _leave(self) -> None:
        """Close at the end of a process that has not, without waiting for the calls in flight, which are cancelled."""
        self._is_leaving = True
        self.close()

    # ---- callers' side ---------------------------------------------------------------------------------------

    def _send(self, arrival: _Arrival) -> None:
        with self._lock:
            if self._is_closing or self.is_broken:
                raise EngineUnavailable("this transcriber is closed")
            self._inbox.put(arrival)

    def _submit_many(
        self,
        items: Several[Recording | TranscribeItem],
        on_progress: ProgressCallback | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> list[RecordingWork]:
        progress = SharedProgress(len(items), on_progress)
        works: list[RecordingWork] = []
        try:
            for place, item in enumerate(items):
                wrapped = item if isinstance(item, TranscribeItem) else TranscribeItem(item)
                listener = Listener(on_progress=progress.of(place))
                works.append(self.submit(wrapped, listener=listener, is_cancelled=is_cancelled))
        except BaseException:
            self._abandon(works)
            raise
        return works

    def _wait(self, works: list[RecordingWork]) -> list[Transcript]:
        try:
            return [work.future.result() for work in works]
        except BaseException:
            # Ctrl-C lands here too, while the engine's thread works on; it stops at its next step.
            self._abandon(works)
            raise

    async def _wait_async(self, works: list[RecordingWork]) -> list[Transcript]:
        try:
            return [await asyncio.shield(asyncio.wrap_future(work.future)) for work in works]
        except BaseException:
            self._abandon(works)
            raise

    def _abandon(self, works: list[RecordingWork]) -> None:
        for work in works:
            if not work.is_over:
                self.cancel(work)

    # ---- the engine's thread ---------------------------------------------------------------------------------

    def _run_engine(self, loaded: Future[None]) -> None:
        try:
            self._work_until_closed(loaded)
        finally:
            # What is compiled belongs to this thread, and must not outlive it.
            self._resident = None
            leave_mlx()

    def _work_until_closed(self, loaded: Future[None]) -> None:
        try:
            self._load()
        except BaseException as error:
            return loaded.set_exception(error)
        loaded.set_result(None)
        del loaded
        try:
            self._serve()
        except BaseException as error:
            self._break(error)

    def _load(self) -> Pipeline:
        with self.counters.loading():
            wake = partial(self._inbox.put, None)
            self._resident = Pipeline(self.config, self.counters, wake, self._load_model, self._profile)
        self._info = self._resident.info
        return self._resident

    def _serve(self) -> None:
        """Work until closed and done. Without work for long enough the model is unloaded until work comes."""
        idle_since = time.monotonic()
        while True:
            resident = self._resident
            is_busy = resident is not None and resident.advance()
            has_work = resident is not None and resident.has_work
            if has_work:
                idle_since = time.monotonic()
            if self._is_leaving or (self._is_closing and not has_work and self._inbox.empty()):
                self._unload()
                return
            if not has_work and resident is not None and self._has_idled(idle_since):
                self._unload()
                resident = None
            for arrival in self._arrivals(0.0 if is_busy else self._patience(idle_since)):
                self._open(arrival)
            if resident is not None and resident.waits_for_audio:
                resident.look_for_audio()

    def _open(self, arrival: _Arrival) -> None:
        try:
            resident = self._resident or self._load()
            if isinstance(arrival, Future):
                resident.warm_up_shapes()
                arrival.set_result(None)
            else:
                resident.open(arrival)
        except EngineError as error:
            _fail(arrival, error)
        except BaseException as error:
            if isinstance(arrival, Future):
                arrival.set_exception(error)
            raise

    def _unload(self) -> None:
        if self._resident is not None:
            self._resident.close()
            self._resident = None

    def _patience(self, idle_since: float) -> float | None:
        """Seconds to wait for something to arrive; None for as long as it takes."""
        resident = self._resident
        if resident is None:
            return None
        if resident.waits_for_audio:
            return _AUDIO_POLL_SECONDS
        if resident.has_work:
            return None
        resident.rest()
        if self.config.idle_unload_seconds:
            left = idle_since + self.config.idle_unload_seconds - time.monotonic()
            return max(0.0, left) + _LEAST_WAIT_SECONDS
        return None

    def _has_idled(self, idle_since: float) -> bool:
        allowed = self.config.idle_unload_seconds
        return bool(allowed) and time.monotonic() - idle_since >= allowed

    def _arrivals(self, patience_seconds: float | None) -> list[_Arrival]:
        """Everything submitted, after waiting at most that long for the first."""
        arrived: list[_Arrival] = []
        with contextlib.suppress(queue.Empty):
            if patience_seconds != 0.0:
                first = self._inbox.get(timeout=patience_seconds)
                arrived += [first] if first is not None else []
            while True:
                work = self._inbox.get_nowait()
                arrived += [work] if work is not None else []
        return arrived

    def _break(self, error: BaseException) -> None:
        """Fail everything: a failed device poisons later evaluations, so nothing is tried again here."""
        with self._lock:
            self.is_broken = True
        fault = EngineFault(f"the engine failed: {type(error).__name__}")
        fault.__cause__ = error
        if self._on_fault is not None:
            self._on_fault(error)
        if self._resident is not None:
            self._resident.fail_all(fault)
        for arrival in self._arrivals(0.0):
            _fail(arrival, fault)


def _fail(arrival: _Arrival, error: EngineError) -> None:
    if isinstance(arrival, Future):
        arrival.set_exception(error)
    else:
        arrival.fail(error)
