"""Audio in, transcript out: the pipeline in reading order.

A `Transcriber` owns one model, its tokenizer and the one thread that touches MLX; there are no hidden
globals, and two of them do not know of each other. Recordings are read as streams, cut into chunks, and
the chunks of one call are decoded together (`engine.pipeline`). It serves no HTTP and keeps no jobs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from collections.abc import Sequence as Several
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from engine.audio.recording import Recording
from engine.pipeline import Pipeline, ProgressCallback, SegmentCallback, TranscribeItem, WorkCounters
from engine.protocol.config import EngineConfig, ModelInfo
from engine.protocol.transcript import Transcript

__all__ = ["ProgressCallback", "Recording", "SegmentCallback", "TranscribeItem", "Transcriber"]


class Transcriber:
    """A resident model. Usable from any thread and from asyncio; calls take their turn on the engine's
    thread.

    model: a folder, a Hugging Face id, or `demo`. dtype, device: see EngineConfig.
    raises: ModelError subtypes, each naming what is wrong and what to do.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        offline: bool = False,
        config: EngineConfig | None = None,
    ) -> None:
        config = config or EngineConfig(dtype=dtype, device=device, offline=offline)
        self.config = config if model is None else replace(config, model=str(model))
        self.counters = WorkCounters()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scribewire-mlx")
        try:
            self._pipeline = self._thread.submit(Pipeline, self.config, self.counters).result()
        except BaseException:
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise
        self._is_closed = False

    @property
    def info(self) -> ModelInfo:
        """What was loaded."""
        return self._pipeline.info

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
        on_progress: ProgressCallback | None = None,
        on_segment: SegmentCallback | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Transcript:
        """Transcribe one recording; blocks until it is done.

        on_progress, on_segment: called from the engine's thread. is_cancelled: asked at every decode step.
        raises: AudioError, LanguageUnknown, LanguageUnsupported, OptionInvalid, PromptTooLong,
        RequestCancelled.
        """
        item = TranscribeItem(audio, language, prompt, temperature, seed, max_tokens, logprobs)
        return self._run([item], on_progress, on_segment, is_cancelled)[0]

    def transcribe_many(
        self,
        items: Several[Recording | TranscribeItem],
        *,
        on_progress: ProgressCallback | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> list[Transcript]:
        """Transcribe several recordings in one batch, each with its own language and prompt; results in
        order.

        The first recording that cannot be read ends the call with its error.
        raises: as transcribe.
        """
        wrapped = [item if isinstance(item, TranscribeItem) else TranscribeItem(item) for item in items]
        return self._run(wrapped, on_progress, None, is_cancelled)

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
        on_progress: ProgressCallback | None = None,
        on_segment: SegmentCallback | None = None,
    ) -> Transcript:
        """`transcribe` for asyncio; cancelling the task stops the work at the next decode step."""
        item = TranscribeItem(audio, language, prompt, temperature, seed, max_tokens, logprobs)
        return (await self._run_async([item], on_progress, on_segment))[0]

    async def transcribe_many_async(
        self, items: Several[Recording | TranscribeItem], *, on_progress: ProgressCallback | None = None
    ) -> list[Transcript]:
        """`transcribe_many` for asyncio."""
        wrapped = [item if isinstance(item, TranscribeItem) else TranscribeItem(item) for item in items]
        return await self._run_async(wrapped, on_progress, None)

    def close(self) -> None:
        """Wait for the call in hand and give the model's memory back."""
        if not self._is_closed:
            self._is_closed = True
            self._thread.submit(self._pipeline.close)
            self._thread.shutdown(wait=True)

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(
        self,
        items: list[TranscribeItem],
        on_progress: ProgressCallback | None,
        on_segment: SegmentCallback | None,
        is_cancelled: Callable[[], bool],
    ) -> Future[list[Transcript]]:
        return self._thread.submit(self._pipeline.transcribe, items, on_progress, on_segment, is_cancelled)

    def _run(
        self,
        items: list[TranscribeItem],
        on_progress: ProgressCallback | None,
        on_segment: SegmentCallback | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> list[Transcript]:
        interrupted = threading.Event()
        asked = is_cancelled or (lambda: False)
        future = self._submit(items, on_progress, on_segment, lambda: interrupted.is_set() or asked())
        try:
            return future.result()
        except BaseException:
            # Ctrl-C lands here while the engine's thread works on; it stops at its next step.
            interrupted.set()
            raise

    async def _run_async(
        self,
        items: list[TranscribeItem],
        on_progress: ProgressCallback | None,
        on_segment: SegmentCallback | None,
    ) -> list[Transcript]:
        abandoned = threading.Event()
        future = self._submit(items, on_progress, on_segment, abandoned.is_set)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            abandoned.set()
            raise
